-- The target: the same table, empty.
create table audio_downloads (
    id bigint generated always as identity primary key,
    url text not null,
    title text,
    tags text[],
    meta jsonb,
    checksum bytea,
    created_at timestamptz not null default now()
);

-- The source: a million rows of audio_downloads, about 300 bytes each.
create table audio_downloads (
    id bigint generated always as identity primary key,
    url text not null,
    title text,
    tags text[],
    meta jsonb,
    checksum bytea,
    created_at timestamptz not null default now()
);

insert into audio_downloads (url, title, tags, meta, checksum, created_at)
select 'https://cdn.example.net/audio/' || md5(i::text) || '/' || i || '.opus',
       'Track ' || i || repeat(' la', (i % 9)::int),
       array['genre-' || i % 7, null, 'ünï "quoted", with a comma'],
       jsonb_build_object('plays', i % 10007, 'codec', 'opus', 'rates', jsonb_build_array(i % 5, null, 'é')),
       decode(md5(i::text) || md5((-i)::text), 'hex'),
       timestamptz '2020-01-01 00:00:00+00' + i * interval '7.000001 seconds'
from generate_series(1, 1000000) as i;

-- The progress's total comes from the statistics.
analyze audio_downloads;

//! Writers that commit out of order on purpose, and a poller of the kind that loses their rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::random::Random;
use crate::servers::{client, sql};
use crate::stage::runtime;

/// An id waits at most so long for its commit.
const HELD_MS: u64 = 3000;
const POLLED_EVERY: Duration = Duration::from_millis(200);

/// Tasks that go on until they are told to stop.
pub struct Tasks {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Tasks {
    fn new() -> Self {
        Self {
            stop: Arc::default(),
            tasks: Vec::new(),
        }
    }

    /// Each ends what it has begun.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            runtime().block_on(task).unwrap();
        }
    }
}

/// How a transaction takes its id.
const TAKE: [&str; 2] = [
    // The id, and much later the row.
    "BEGIN; SELECT nextval(pg_get_serial_sequence('audio_downloads', 'id'))",
    "BEGIN; INSERT INTO audio_downloads (url) VALUES ('taken and written') RETURNING id",
];

/// Writers on the source: each takes an id early and commits it late, or not at all, or in two phases.
pub fn write(url: &str, writers: u64, random: &mut Random) -> Tasks {
    let mut tasks = Tasks::new();
    for number in 0..writers {
        let (url, stop, mut random) = (url.to_owned(), Arc::clone(&tasks.stop), random.fork());
        tasks.tasks.push(runtime().spawn(async move {
            let client = client(&url).await;
            let mut transaction = 0;
            while !stop.load(Ordering::SeqCst) {
                transaction += 1;
                let ahead = random.within(0..2) == 0;
                let taken = client.simple_query(TAKE[usize::from(!ahead)]).await.unwrap();
                let id = taken.iter().find_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                });
                hold(&mut random).await;
                if ahead {
                    let insert = "INSERT INTO audio_downloads (id, url) OVERRIDING SYSTEM VALUE VALUES";
                    client
                        .simple_query(&format!("{insert} ({}, 'id taken ahead')", id.unwrap()))
                        .await
                        .unwrap();
                }
                match random.within(0..6) {
                    0 => client.simple_query("ROLLBACK").await.unwrap(),
                    1 => {
                        let name = format!("w{number}t{transaction}");
                        client
                            .simple_query(&format!("PREPARE TRANSACTION '{name}'"))
                            .await
                            .unwrap();
                        hold(&mut random).await;
                        client
                            .simple_query(&format!("COMMIT PREPARED '{name}'"))
                            .await
                            .unwrap()
                    }
                    _ => client.simple_query("COMMIT").await.unwrap(),
                };
            }
        }));
    }
    tasks
}

/// A writer that adds small batches of rows to the source all the time, each committed at once.
pub fn insert(url: &str) -> Tasks {
    let mut tasks = Tasks::new();
    let (url, stop) = (url.to_owned(), Arc::clone(&tasks.stop));
    tasks.tasks.push(runtime().spawn(async move {
        let client = client(&url).await;
        while !stop.load(Ordering::SeqCst) {
            let some = "INSERT INTO audio_downloads (url) SELECT 'new' FROM generate_series(1, 5)";
            client.batch_execute(some).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }));
    tasks
}

async fn hold(random: &mut Random) {
    // Most are short, so that others overtake the long ones.
    let longest = if random.within(0..3) == 0 { HELD_MS } else { 100 };
    tokio::time::sleep(Duration::from_millis(random.within(0..longest))).await;
}

/// The cursor that everybody writes first: what is beyond the highest id it has. Keeps ids in `naive` on the target.
pub fn poll_naively(source: &str, target: &str) -> Tasks {
    let mut tasks = Tasks::new();
    let (source, target, stop) = (source.to_owned(), target.to_owned(), Arc::clone(&tasks.stop));
    tasks.tasks.push(runtime().spawn(async move {
        sql(&target, "CREATE TABLE naive (id bigint PRIMARY KEY)").await;
        let (source, target) = (client(&source).await, client(&target).await);
        let mut highest = 0_i64;
        loop {
            let last = stop.load(Ordering::SeqCst);
            let found = "SELECT id FROM audio_downloads WHERE id > $1 ORDER BY id";
            let rows = source.query(found, &[&highest]).await.unwrap();
            let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            let insert = "INSERT INTO naive SELECT unnest($1::bigint[])";
            target.execute(insert, &[&ids]).await.unwrap();
            highest = ids.last().copied().unwrap_or(highest);
            if last {
                return;
            }
            tokio::time::sleep(POLLED_EVERY).await;
        }
    }));
    tasks
}

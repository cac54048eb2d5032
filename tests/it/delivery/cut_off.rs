//! Owners whose lock is free although they may live: the server lost it, without a start that would tell.

use engageninja::domain::counts::CountWord;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{ConnectOptions, Executor, Row};

use super::settle::{Office, Owner};
use crate::harness::db::Cluster;
use crate::harness::eventually;
use crate::harness::world::World;

impl Office {
    /// Two minutes after its deadline the one attempt could be judged, had its owner's death freed the lock; ten minutes after
    /// it, whatever did.
    async fn is_judged_as_after_a_restart(&self) {
        for secs in [26, 60, 150, 400] {
            self.look_at(secs).await;
            assert_eq!(self.count(CountWord::Sending).await, 1, "after {secs} s");
        }
        self.look_at(630).await;
        assert_eq!(self.count(CountWord::Queued).await, 1);
    }
}

/// The crash of one process ends the sessions of all; the postmaster is the same as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_one_process_of_the_server_proves_nobodys_death() {
    let cluster = Cluster::dedicated(true).await;
    let office = Office::on(World::on(cluster.db().await).await, 1).await;
    let world = &office.world;
    let mut owner = Owner::start(world).await;
    office.begin_as(&owner, office.released[0]).await;
    let since = "SELECT extract(epoch FROM pg_postmaster_start_time())::bigint";
    let started = world.number(since).await;

    let mut victim = world.session().await;
    let row = victim.fetch_one("SELECT pg_backend_pid()").await.unwrap();
    kill(Pid::from_raw(row.get(0)), Signal::SIGKILL).unwrap();
    owner.is_cut_off().await;
    let options = world.db.options().cell;
    eventually("the server takes sessions again", || async {
        options.connect().await.is_ok()
    })
    .await;

    assert_eq!(world.number(since).await, started, "it was no restart");
    office.is_judged_as_after_a_restart().await;
    office.resolver.end().await;
}

/// A standby that had been running since before the call takes over: it never had the owner's lock.
#[tokio::test]
async fn a_server_that_was_promoted_since_proves_nobodys_death() {
    let office = Office::with_messages(1).await;
    let owner = Owner::start(&office.world).await;
    office.begin_as(&owner, office.released[0]).await;
    owner.die().await;
    office
        .world
        .db
        .execute("UPDATE cell.database_timelines SET seen_at = public.app_now()")
        .await;

    office.is_judged_as_after_a_restart().await;
    office.resolver.end().await;
}

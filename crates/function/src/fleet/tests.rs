#![allow(clippy::unwrap_used)]

use tokio::task::JoinHandle;

use super::*;
use crate::pool::Lease;
use crate::testing::{Fake, fleet};

/// None of them is reached but where a test says so.
fn limits() -> Limits {
    Limits {
        patience: Duration::from_secs(3600),
        line: 100,
        freeze_after: None,
        keep: Duration::from_secs(3600),
        instances: 100,
        memory: 1 << 20,
        starts: 8,
        pause: Duration::from_secs(3600),
    }
}

type Asked = JoinHandle<Result<Lease, Refusal>>;

/// Asks for room for so many requests, one after the other.
async fn ask(pool: &Arc<Pool>, requests: u32) -> Vec<Asked> {
    let mut all = Vec::new();
    for _ in 0..requests {
        let (before, asking) = (pool.counts().waiting, Arc::clone(pool));
        all.push(tokio::spawn(async move { asking.acquire().await }));
        until(|| pool.counts().waiting > before).await;
    }
    all
}

async fn until(so: impl Fn() -> bool) {
    while !so() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn refused(answer: Result<Lease, Refusal>) -> Refusal {
    answer.map(|lease| lease.instance.id.clone()).unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_of_one_function_does_not_hold_up_another() {
    let (machine, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    let limits = Limits {
        starts: 2,
        ..limits()
    };
    let fleet = fleet(&machine, limits, &dir);
    let noisy = fleet.pool(&machine.target("noisy"));
    let quiet = fleet.pool(&machine.target("quiet"));
    let mut all = ask(&noisy, 5).await;
    until(|| machine.asked().len() == 2).await;
    all.extend(ask(&quiet, 1).await);
    // Each that ends lets one begin.
    for ended in 1..=4 {
        machine.let_on(1);
        until(|| machine.asked().len() == 2 + ended).await;
    }
    assert_eq!(machine.asked()[..3], ["noisy", "noisy", "quiet"]);
    machine.let_on(2);
    for asked in all {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_end_of_the_line_requests_are_refused() {
    let (machine, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    let limits = Limits {
        line: 3,
        ..limits()
    };
    let pool = fleet(&machine, limits, &dir).pool(&machine.target("web"));
    let waiting = ask(&pool, 3).await;
    let refusal = refused(pool.acquire().await);
    let (status, code) = (refusal.status, refusal.code);
    assert_eq!((status.as_u16(), code), (429, "ResourceExhausted"));
    assert!(refusal.message.contains("3 requests"), "{refusal}");
    machine.let_on(3);
    for asked in waiting {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_waited_for_long_enough_is_refused_and_leaves_the_line() {
    let (machine, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    let limits = Limits {
        patience: Duration::from_millis(10),
        line: 1,
        ..limits()
    };
    let pool = fleet(&machine, limits, &dir).pool(&machine.target("web"));
    for _ in 0..2 {
        let refusal = refused(pool.acquire().await);
        let (status, code) = (refusal.status, refusal.code);
        assert_eq!((status.as_u16(), code), (429, "ResourceExhausted"));
        assert!(refusal.message.contains("became free"), "{refusal}");
    }
    machine.let_on(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_fail_together_fail_once_and_are_not_tried_again_at_once() {
    let (machine, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    machine.fail_from(0);
    let pool = fleet(&machine, limits(), &dir).pool(&machine.target("web"));
    let waiting = ask(&pool, 4).await;
    until(|| machine.asked().len() == 4).await;
    machine.let_on(4);
    for asked in waiting {
        assert_eq!(refused(asked.await.unwrap()).code, "CAExited");
    }
    until(|| pool.counts().starting == 0).await;
    let refusal = refused(pool.acquire().await);
    assert_eq!(refusal.code, "CAExited");
    assert!(
        refusal.message.contains("it failed once; tried again in"),
        "{refusal}"
    );
    assert_eq!(machine.asked().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_starts_pause_requests_wait_for_the_instance_that_is_there() {
    let (machine, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    machine.fail_from(1);
    machine.let_on(100);
    let pool = fleet(&machine, limits(), &dir).pool(&machine.target("web"));
    let first = pool.acquire().await.unwrap();
    // The start that this one asks for fails; it is served by the first instance all the same.
    let mut waiting = ask(&pool, 1).await;
    until(|| machine.asked().len() == 2 && pool.counts().starting == 0).await;
    waiting.extend(ask(&pool, 3).await);
    assert_eq!(machine.asked().len(), 2, "nothing is started meanwhile");
    drop(first);
    for asked in waiting {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gets_the_next_request_and_no_other() {
    let (machine, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    machine.let_on(2);
    let fleet = fleet(&machine, limits(), &dir);
    let mut target = machine.target("web");
    Arc::get_mut(&mut target).unwrap().config.concurrency = 10;
    let pool = fleet.pool(&target);
    let own = pool.acquire().await.unwrap();
    let order = fleet.order(&target, Lazily::Never).unwrap();
    let started = machine.start(&order).unwrap();
    let taken = fleet.guest(started, &target, None).await;
    let guest = taken.map_err(|(refusal, _)| refusal).unwrap();
    let (inviting, invited) = (Arc::clone(&pool), Arc::clone(&guest));
    let visit = async move { inviting.invite(&invited, Duration::from_secs(3600)).await };
    let visit = tokio::spawn(visit);
    until(|| pool.counts().running == 2).await;
    let first = pool.acquire().await.unwrap();
    assert_eq!(first.instance.id, guest.id);
    let second = pool.acquire().await.unwrap();
    assert_eq!(second.instance.id, own.instance.id);
    drop(first);
    let third = pool.acquire().await.unwrap();
    assert_eq!(third.instance.id, own.instance.id);
    visit.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_pause_a_start_is_tried_again() {
    let (machine, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    machine.fail_from(0);
    machine.let_on(100);
    let limits = Limits {
        pause: Duration::ZERO,
        ..limits()
    };
    let pool = fleet(&machine, limits, &dir).pool(&machine.target("web"));
    for tried in 1..=3 {
        assert_eq!(refused(pool.acquire().await).code, "CAExited");
        assert_eq!(machine.asked().len(), tried);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_no_server_have_an_instance_each_and_wait_for_places() {
    let (machine, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    machine.let_on(100);
    let limits = Limits {
        instances: 2,
        line: 1,
        ..limits()
    };
    let mut target = machine.target("job");
    let config = &mut Arc::get_mut(&mut target).unwrap().config;
    config.container.web_server = Some(false);
    // One that works has room for no other, whatever the function says.
    config.concurrency = 10;
    let pool = fleet(&machine, limits, &dir).pool(&target);
    let first = pool.employ("1".to_owned()).await.unwrap();
    let second = pool.employ("2".to_owned()).await.unwrap();
    assert_ne!(first.instance.id, second.instance.id);
    let third = {
        let asking = Arc::clone(&pool);
        tokio::spawn(async move { asking.employ("3".to_owned()).await })
    };
    until(|| pool.counts().waiting == 1).await;
    let refusal = refused(pool.employ("4".to_owned()).await);
    assert_eq!(refusal.code, "ResourceExhausted");
    assert_eq!(machine.asked().len(), 2);
    drop(first);
    let third = third.await.unwrap().unwrap();
    assert!(third.cold);
    drop((second, third));
    until(|| pool.counts().running == 0).await;
    let events = ["1", "2", "3"].map(|event| Some(event.to_owned()));
    assert_eq!(machine.events(), events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_waits_for_any_more_ends() {
    let (machine, dir) = (Fake::new(), tempfile::tempdir().unwrap());
    let mut target = machine.target("job");
    let config = &mut Arc::get_mut(&mut target).unwrap().config;
    config.container.web_server = Some(false);
    let pool = fleet(&machine, limits(), &dir).pool(&target);
    let asking = Arc::clone(&pool);
    let asked = tokio::spawn(async move { asking.employ("x".to_owned()).await });
    until(|| machine.asked().len() == 1).await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    machine.let_on(1);
    until(|| pool.counts() == crate::pool::Counts::default()).await;
}

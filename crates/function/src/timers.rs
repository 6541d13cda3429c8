//! Timers: events at times.
//!
//! A tick is written down together with its event, in one change of the catalog, so there is at most
//! one event for each tick, whatever becomes of the host. Of ticks that were missed while no host ran
//! the last one is made up for where it is less than [`CATCH_UP`] old; the others are not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;

use crate::catalog::{Entity, Table};
use crate::error::Refusal;
use crate::host::Host;
use crate::model::{Trigger, TriggerKind};
use crate::queue::Queue;
use crate::schedule::Schedule;

/// How old a missed tick may be that is made up for.
const CATCH_UP: SignedDuration = SignedDuration::from_secs(60);
/// Longest sleep: the clock may be set.
const MAX_SLEEP: Duration = Duration::from_secs(10);

/// The last tick of a trigger.
#[derive(Debug, Serialize, Deserialize)]
struct Tick {
    trigger: String,
    /// The trigger may be made anew under its name.
    id: String,
    last: Timestamp,
}

impl Entity for Tick {
    const TABLE: Table = Table::new("ticks");
    fn key(&self) -> String {
        self.trigger.clone()
    }
}

/// Tells the loop that triggers have changed.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    changed: Notify,
}

impl Timers {
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }

    /// Makes events, as long as the host lives.
    pub(crate) async fn work(host: Arc<Host>) {
        while !host.fleet.is_closing() {
            let next = tokio::task::block_in_place(|| fire_due(&host, Timestamp::now()));
            let pause = match next {
                Ok(Some(next)) => next.duration_since(Timestamp::now()),
                Ok(None) => SignedDuration::MAX,
                Err(error) => {
                    tracing::error!(%error, "timers");
                    SignedDuration::from_secs(1)
                }
            };
            let pause = pause
                .max(SignedDuration::ZERO)
                .unsigned_abs()
                .min(MAX_SLEEP);
            let pause = tokio::time::sleep(pause);
            tokio::select! { () = host.timers.changed.notified() => {}, () = pause => {} }
        }
    }
}

/// Makes the events that are due; when the next one is.
fn fire_due(host: &Host, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
    let triggers: Vec<Trigger> = host.catalog.list("")?;
    let ticks: Vec<Tick> = host.catalog.list("")?;
    let ticks: HashMap<String, Tick> = ticks.into_iter().map(|tick| (tick.key(), tick)).collect();
    let mut soonest: Option<Timestamp> = None;
    for trigger in triggers {
        let TriggerKind::Timer {
            schedule,
            enabled: true,
            payload,
        } = &trigger.kind
        else {
            continue;
        };
        let Ok(schedule) = Schedule::parse(schedule) else {
            continue;
        };
        let tick = ticks
            .get(&trigger.key())
            .filter(|tick| tick.id == trigger.id);
        let last = tick.map_or(trigger.created, |tick| tick.last);
        let Some(due) = due(&schedule, last, trigger.created, now) else {
            continue;
        };
        match due {
            Due::Now(tick) => {
                fire(host, &trigger, payload, tick)?;
                soonest = Some(now);
            }
            Due::Later(next) => soonest = Some(soonest.map_or(next, |soonest| soonest.min(next))),
        }
    }
    Ok(soonest)
}

#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// That tick; older ones are left out.
    Now(Timestamp),
    Later(Timestamp),
}

/// What is due after the tick `last`, or will be.
fn due(schedule: &Schedule, last: Timestamp, origin: Timestamp, now: Timestamp) -> Option<Due> {
    let mut next = schedule.next(last.max(now - CATCH_UP), origin)?;
    if next > now {
        return Some(Due::Later(next));
    }
    while let Some(later) = schedule.next(next, origin).filter(|later| *later <= now) {
        next = later;
    }
    Some(Due::Now(next))
}

fn fire(host: &Host, trigger: &Trigger, payload: &str, tick: Timestamp) -> Result<(), Refusal> {
    let event = json!({
        "triggerTime": tick.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "triggerName": trigger.name,
        "payload": payload,
    });
    let body = Bytes::from(event.to_string());
    let id = crate::unique::id();
    let task = host.catalog.change(|open| {
        open.put(&Tick {
            trigger: trigger.key(),
            id: trigger.id.clone(),
            last: tick,
        })?;
        Queue::put(open, &trigger.function, &trigger.qualifier, &body, &id)
    })?;
    host.queue.begin(&task);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_the_missed_ticks_is_made_up_for() {
        let schedule = Schedule::parse("@every 10s").unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let origin = at(1000);
        assert_eq!(
            due(&schedule, at(1000), origin, at(1005)),
            Some(Due::Later(at(1010)))
        );
        assert_eq!(
            due(&schedule, at(1000), origin, at(1010)),
            Some(Due::Now(at(1010)))
        );
        assert_eq!(
            due(&schedule, at(1000), origin, at(1039)),
            Some(Due::Now(at(1030)))
        );
        assert_eq!(
            due(&schedule, at(1030), origin, at(1039)),
            Some(Due::Later(at(1040)))
        );
    }

    #[test]
    fn a_tick_that_was_missed_long_ago_is_not() {
        let schedule = Schedule::parse("@every 10m").unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let missed = |now| due(&schedule, at(600), at(0), at(now));
        assert_eq!(missed(1259), Some(Due::Now(at(1200))));
        assert_eq!(missed(1260), Some(Due::Later(at(1800))));
    }
}

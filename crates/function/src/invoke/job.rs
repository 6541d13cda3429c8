//! Events for functions that are no servers (`webServerMode: false`): a container for each, which finds the
//! event in its environment, and whose end is the answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Answered, note_missed, timed_out};
use crate::contract::EVENT;
use crate::error::Refusal;
use crate::host::Host;
use crate::instance::{End, Instance, describe};
use crate::logs::Tail;
use crate::model::Target;

/// Bytes of an event: Linux takes no longer string of the environment (`MAX_ARG_STRLEN` of
/// include/uapi/linux/binfmts.h), with the name and the zero behind it.
const MAX_EVENT: usize = (128 << 10) - EVENT.len() - "=\0".len();

/// Has a container work on an event.
///
/// # Errors
/// [`Refusal`] where the host itself cannot, or the event cannot be in an environment.
pub(super) async fn run(
    host: &Arc<Host>,
    target: &Arc<Target>,
    event: &Bytes,
    request_id: &str,
    with_log: bool,
    cold: &mut bool,
) -> Result<Answered, Refusal> {
    let event = text(event)?;
    let lease = host.fleet.pool(target).employ(event).await?;
    *cold = lease.cold;
    let instance = Arc::clone(&lease.instance);
    let begin = Instant::now();
    let patience = Duration::from_secs(target.config.timeout.into());
    let (mut answered, peak_memory) = match tokio::time::timeout(patience, instance.wait()).await {
        Ok(end) => {
            let end = end.unwrap_or_default();
            (to_answer(&instance, &end), end.peak_memory)
        }
        Err(_) => {
            let failed = Answered::failed("UnhandledInvocationError", &timed_out(patience));
            (failed, instance.peak_memory())
        }
    };
    answered.took = begin.elapsed();
    answered.peak_memory = peak_memory;
    let dir = &instance.started.dir;
    answered.log = with_log.then(|| Tail::whole(dir).read(request_id).log);
    let noted = note_missed(host, &lease);
    tokio::spawn(async move {
        // With the container goes what is known of it.
        if let Some(noted) = noted {
            noted.await.ok();
        }
        drop(lease);
    });
    Ok(answered)
}

fn to_answer(instance: &Instance, end: &End) -> Answered {
    if end.code == Some(0) {
        return Answered::empty();
    }
    let log = crate::logs::last_lines(&instance.started.dir, 5);
    let message = format!("{}{log}", describe(end, &instance.target));
    Answered::failed("UnhandledInvocationError", &message)
}

/// An event as a string of an environment.
fn text(event: &Bytes) -> Result<String, Refusal> {
    let refused = |what: &str| {
        let message = format!(
            "the event {what}: a function that is no server (webServerMode is false) finds it in \
             {EVENT}, which has at most {MAX_EVENT} bytes of UTF-8 without zeros"
        );
        Err(Refusal::invalid(message))
    };
    if event.len() > MAX_EVENT {
        return refused("is too long");
    }
    match std::str::from_utf8(event) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => refused("is no text"),
    }
}

/// Why a function gets no HTTP requests.
pub(super) fn no_server(target: &Target) -> Refusal {
    Refusal::invalid(format!(
        "function '{}' is no server (webServerMode is false): it takes events, and no HTTP requests",
        target.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_to_fit_into_an_environment() {
        let longest = "x".repeat(MAX_EVENT);
        assert_eq!(MAX_EVENT, 131_045);
        assert_eq!(text(&Bytes::from(longest.clone())).unwrap(), longest);
        for (event, why) in [
            (Bytes::from(longest + "x"), "is too long"),
            (Bytes::from_static(b"a\0b"), "is no text"),
            (Bytes::from_static(b"\xff"), "is no text"),
        ] {
            let refusal = text(&event).unwrap_err();
            assert!(refusal.message.contains(why), "{}", refusal.message);
        }
    }
}

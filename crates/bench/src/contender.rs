//! What is compared, and how one start is timed.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use thaw_testkit::http;
use thaw_testkit::net::Link;

/// No start takes longer.
const LIMIT: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(2);

/// A system that starts containers.
pub(crate) trait Contender {
    /// Its name in the table.
    fn name(&self) -> &'static str;

    /// What is done once for an image, anywhere, before nodes start it. Not timed.
    fn prepare(&mut self, _reference: &str) -> Result<()> {
        Ok(())
    }

    /// A node that keeps everything below `disk`, its daemon running. Not timed.
    fn node(&self, disk: &Path) -> Result<Box<dyn Node>>;
}

/// One machine of a contender. Its drop ends and unmounts everything.
pub(crate) trait Node {
    /// Brings up what a node has running before anybody asks for this image. Not timed.
    fn ready(&mut self, _reference: &str) -> Result<()> {
        Ok(())
    }

    /// Makes the image ready, where that is a step of its own.
    fn pull(&mut self, reference: &str) -> Result<()>;

    /// Starts a container in our network, with `PORT` set; does not wait for it to be ready.
    fn run(&mut self, reference: &str, port: u16) -> Result<()>;

    /// Ends the container, so that it can be started again.
    fn stop(&mut self) -> Result<()>;
}

/// Where one start's time went, in seconds from its beginning.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Start {
    /// The pull was done.
    pub(crate) pulled: f64,
    /// The command that starts the container came back.
    pub(crate) started: f64,
    /// The first good answer.
    pub(crate) answered: f64,
    /// Bytes from the registry until then, on the wire.
    pub(crate) received: u64,
}

/// Starts with a pull, cold.
pub(crate) fn cold(node: &mut dyn Node, reference: &str, link: &Link) -> Result<Start> {
    start(node, reference, link, true)
}

/// Starts an image that is there.
pub(crate) fn warm(node: &mut dyn Node, reference: &str, link: &Link) -> Result<Start> {
    start(node, reference, link, false)
}

fn start(node: &mut dyn Node, reference: &str, link: &Link, pull: bool) -> Result<Start> {
    let port = free_port()?;
    let failed = AtomicBool::new(false);
    let before = link.received();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| {
            let answered = first_answer(port, begin, &failed)?;
            Ok::<_, anyhow::Error>((answered, link.received() - before))
        });
        let steps = (|| {
            if pull {
                node.pull(reference)?;
            }
            let pulled = begin.elapsed();
            node.run(reference, port)?;
            Ok::<_, anyhow::Error>((pulled, begin.elapsed()))
        })();
        failed.store(steps.is_err(), Ordering::Relaxed);
        let answer = answer.join();
        let (pulled, started) = steps?;
        let (answered, received) = answer.ok().context("the prober panicked")??;
        Ok(Start {
            pulled: pulled.as_secs_f64(),
            started: started.as_secs_f64(),
            answered: answered.as_secs_f64(),
            received,
        })
    })
}

fn first_answer(port: u16, begin: Instant, failed: &AtomicBool) -> Result<Duration> {
    let host = format!("127.0.0.1:{port}");
    loop {
        if http::get(&host, "/", LIMIT).is_ok_and(|answer| answer.status == 200) {
            return Ok(begin.elapsed());
        }
        if failed.load(Ordering::Relaxed) {
            bail!("the container was not started");
        }
        if begin.elapsed() > LIMIT {
            bail!("no good answer within {} s", LIMIT.as_secs());
        }
        std::thread::sleep(POLL);
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_failed_is_not_waited_for() {
        let failed = AtomicBool::new(true);
        let begin = Instant::now();
        assert!(first_answer(free_port().unwrap(), begin, &failed).is_err());
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}

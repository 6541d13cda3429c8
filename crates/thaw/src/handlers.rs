//! Request → node → reply: one exhaustive match.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use thaw_image::Progress;
use thaw_node::Node;

use crate::progress::Wire;
use crate::protocol::{Destination, Request};

/// Carries a request out.
pub(crate) fn handle(
    node: &Arc<Node>,
    request: Request,
    progress: &Arc<Wire>,
) -> anyhow::Result<Value> {
    let progress: Arc<dyn Progress> = Arc::clone(progress) as Arc<dyn Progress>;
    let progress = progress.as_ref();
    match request {
        Request::Prepare {
            image,
            container,
            fill,
            storage,
        } => json(node.prepare(&image, *container, storage, fill, progress)?),
        Request::Release { id, remove } => json(node.release(&id, remove)?),
        Request::Report { id } => json(node.report(&id)?),
        Request::Mount { image, dir } => json(node.mount(&image, &dir, progress)?),
        Request::Mounts => json(node.list_mounts()),
        Request::Unmount { dir: Some(dir) } => json(node.unmount(&dir)?),
        Request::Unmount { dir: None } => json(node.unmount_all()?),
        Request::Pull { image } => json(node.pull(&image, progress)?),
        Request::Accelerate {
            image,
            destination,
            record,
        } => {
            let destination = chosen(destination)?;
            let done = node.accelerate(&image, &destination, record.is_some(), progress)?;
            let recorded = record
                .map(|record| {
                    let record = *record;
                    node.record(
                        &image,
                        &destination,
                        &record.ready,
                        &record.options,
                        record.container,
                        progress,
                    )
                })
                .transpose()?;
            json((done, recorded))
        }
        Request::FromTraces { image, destination } => {
            json(node.publish_traces(&image, &chosen(destination)?, progress)?)
        }
        Request::Inspect { image } => json(node.inspect(&image)?),
        Request::Ps { all } => json(node.list_containers(all)?),
        Request::Images => json(node.images()?),
        Request::Gc(options) => json(node.gc(&options)?),
        Request::Explain { container } => json(node.explain(&container)?),
        Request::Metrics => json(node.measures()?),
        Request::Login {
            registry,
            user,
            password,
        } => json(node.login(&registry, &user, &password)?),
        Request::Shutdown => Ok(Value::Null),
    }
}

/// Where artifacts go, in the node's words.
fn chosen(destination: Destination) -> anyhow::Result<thaw_node::Destination> {
    let Destination { to, local, sign } = destination;
    let key = sign.map(|key| key.parse()).transpose()?;
    Ok(thaw_node::Destination { to, local, key })
}

fn json<T: Serialize>(value: T) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(value)?)
}

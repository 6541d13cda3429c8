//! Bodies of requests and answers, of whichever source.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Frame;
use tokio::sync::mpsc;

use crate::error::Refusal;

/// Why a body broke off.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Any body.
pub(crate) type Body = BoxBody<Bytes, BodyError>;

/// A body that is there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    let body = Full::new(bytes.into());
    body.map_err(|never| match never {}).boxed()
}

/// A body that is made up as it goes: ends when its sender is dropped.
#[derive(Debug)]
struct Parts(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let part = self.0.poll_recv(cx);
        part.map(|part| part.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A body, and who fills it. Sending fails when nobody reads it any more.
pub(crate) fn channel() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(16);
    (sender, Parts(receiver).boxed())
}

/// A body that is cut off when `end` is done; `end` is dropped when the body is over or nobody reads it.
pub(crate) fn until(end: impl Future<Output = ()> + Send + 'static, mut body: Body) -> Body {
    let (sender, cut) = channel();
    tokio::spawn(async move {
        let pass_on = async {
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(bytes) = frame.into_data()
                    && sender.send(bytes).await.is_err()
                {
                    return;
                }
            }
        };
        // Where nothing comes, sending does not tell that nobody reads.
        let gone = sender.clone();
        tokio::select! { () = end => {}, () = gone.closed() => {}, () = pass_on => {} }
    });
    cut
}

/// All of a body that has at most `most` bytes.
///
/// # Errors
/// `EntityTooLarge`, or that the caller broke off.
pub(crate) async fn collect<B>(body: B, most: usize) -> Result<Bytes, Refusal>
where
    B: hyper::body::Body,
    B::Data: Into<Bytes> + bytes::Buf,
    B::Error: Into<BodyError>,
{
    match Limited::new(body, most).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "EntityTooLarge",
            format!("the body has more than {most} bytes"),
        )),
        Err(error) => Err(Refusal::invalid(format!("the body broke off: {error}"))),
    }
}

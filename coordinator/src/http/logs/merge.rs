//! Several devices' logs as one stream: what is there by time, then what comes as it comes.
//!
//! Times are the devices' own; each device's lines stay in its own order.

use bramble_contracts::api::StreamLine;
use futures::{
    Stream, StreamExt as _, future,
    stream::{self, BoxStream, SelectAll},
};

use super::reader::{Item, Reader};

/// A reader and the line it comes with next.
struct Lane {
    reader: Reader,
    head: Option<Item>,
    /// It has nothing more that was there.
    dry: bool,
}

enum Stage {
    Backlog(Vec<Lane>),
    Live(SelectAll<BoxStream<'static, StreamLine>>),
}

/// All their lines.
pub(super) fn all(readers: Vec<Reader>) -> impl Stream<Item = StreamLine> + Send {
    let lanes = readers.into_iter().map(|reader| Lane { reader, head: None, dry: false }).collect();
    stream::unfold(Stage::Backlog(lanes), |stage| async {
        let mut live = match stage {
            Stage::Live(live) => live,
            Stage::Backlog(mut lanes) => match earliest(&mut lanes).await {
                Some(line) => return Some((line, Stage::Backlog(lanes))),
                None => stream::select_all(lanes.into_iter().map(|lane| live(lane.reader))),
            },
        };
        live.next().await.map(|line| (line, Stage::Live(live)))
    })
}

/// Devices are asked side by side: a silent one keeps nobody waiting longer than itself.
async fn earliest(lanes: &mut [Lane]) -> Option<StreamLine> {
    let fill = async |lane: &mut Lane| {
        if lane.head.is_none() && !lane.dry {
            lane.head = lane.reader.backlog().await;
            lane.dry = lane.head.is_none();
        }
    };
    future::join_all(lanes.iter_mut().map(fill)).await;
    let first =
        lanes.iter_mut().filter(|lane| lane.head.is_some()).min_by_key(|lane| lane.head.as_ref().map(|h| h.at))?;
    first.head.take().map(|item| item.line)
}

fn live(reader: Reader) -> BoxStream<'static, StreamLine> {
    let lines = stream::unfold(reader, |mut reader| async {
        let item = reader.live().await?;
        Some((item.line, reader))
    });
    lines.boxed()
}

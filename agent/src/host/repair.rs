//! Fetching a damaged image anew: gently first, then by removing it, then with whatever else stands on the damaged layer.
//!
//! Podman does not fetch a layer that is there, so a damaged one has to go, and it goes only with the last image that
//! stands on it. Decides that nothing is removed before the registry has said that it can give the image back, and that
//! what runs of another image is left alone.

use super::device::text;
use super::layers::{self, Image};
use super::podman::{State, Users};
use super::room::Room;
use crate::core::app::without_tag;
use crate::core::step::PullNeed;

/// Ends when the image is whole, or says why it is not.
pub(super) async fn repair(room: &Room, image: &str) -> Result<(), String> {
    // Lost lists come back with a plain pull, which removes nothing.
    if is_visible(room, image).await {
        room.fetch(image, PullNeed::Repair).await?;
        if is_whole(room, image).await {
            return Ok(());
        }
    }
    // A damaged image may still serve what runs: it goes only when the registry is there to give it back.
    let there = room.podman.remote_layers(image).await;
    there.map_err(|err| format!("image {image} is damaged and cannot be fetched anew: {}", text(&err)))?;
    remove(room, image).await?;
    remove_family(room, image).await?;
    room.fetch(image, PullNeed::Repair).await?;
    if is_whole(room, image).await {
        return Ok(());
    }
    let kept = remove_sharers(room, image).await?;
    remove(room, image).await?;
    room.fetch(image, PullNeed::Repair).await?;
    if is_whole(room, image).await {
        return Ok(());
    }
    let with =
        if kept.is_empty() { String::new() } else { format!(", which also {} stand on and run", kept.join(", ")) };
    Err(format!("image {image} was fetched anew and is still damaged: the damage is in a layer that stayed{with}"))
}

/// Removes an image with the containers made of it.
async fn remove(room: &Room, image: &str) -> Result<(), String> {
    room.podman.image_remove(image, Users::Removed).await.map_err(|err| text(&err))
}

/// Older versions that nobody needs most probably stand on the same layers.
async fn remove_family(room: &Room, image: &str) -> Result<(), String> {
    let family = without_tag(image);
    let others = room.collectable().await.unwrap_or_default();
    for other in others.iter().filter(|other| other.names.iter().any(|name| without_tag(name) == family)) {
        room.podman.image_remove(&other.id, Users::Kept).await.map_err(|err| text(&err))?;
    }
    Ok(())
}

/// Removes other images that share a layer with this one and are damaged themselves, with their stopped containers. Those
/// of which something runs are kept; gives their names.
async fn remove_sharers(room: &Room, image: &str) -> Result<Vec<String>, String> {
    let own = id(room, image).await;
    let store = room.store.clone();
    let sharers = tokio::task::spawn_blocking(move || layers::sharers(&store, &own.unwrap_or_default())).await;
    let sharers =
        sharers.map_err(|err| err.to_string())?.map_err(|err| format!("cannot read the store's lists: {err}"))?;
    let containers = room.podman.list(&[]).await.map_err(|err| text(&err))?;
    let mut kept = Vec::new();
    for sharer in sharers {
        let title = sharer.names.first().unwrap_or(&sharer.id).clone();
        if containers.iter().any(|line| line.image_id == sharer.id && line.state == State::Running) {
            kept.push(title);
        } else if !is_whole_image(room, &sharer).await {
            tracing::error!(image, sharer = title, "removing an image that stands on the same damaged layer");
            remove(room, &sharer.id).await?;
        }
    }
    Ok(kept)
}

/// Podman's id of an image, also when it is damaged.
async fn id(room: &Room, image: &str) -> Option<String> {
    if let Ok(found) = room.podman.image(image).await {
        return found.map(|found| found.id);
    }
    let (store, name) = (room.store.clone(), image.to_owned());
    tokio::task::spawn_blocking(move || layers::id_of(&store, &name)).await.ok().flatten()
}

/// Podman itself stumbles over it.
async fn is_visible(room: &Room, image: &str) -> bool {
    room.podman.image(image).await.is_err_and(|err| err.is_image_damage())
}

async fn is_whole(room: &Room, image: &str) -> bool {
    match id(room, image).await {
        Some(id) => !is_visible(room, image).await && files_are_whole(room, id).await,
        None => false,
    }
}

async fn is_whole_image(room: &Room, image: &Image) -> bool {
    !is_visible(room, &image.id).await && files_are_whole(room, image.id.clone()).await
}

async fn files_are_whole(room: &Room, id: String) -> bool {
    let store = room.store.clone();
    let examined = tokio::task::spawn_blocking(move || layers::examine(&store, &id)).await;
    // What cannot be examined is not known to be damaged.
    !matches!(examined, Ok(Ok(Some(_))))
}

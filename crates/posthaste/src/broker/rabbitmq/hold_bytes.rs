//! How many bytes of deliveries one connection's readers may hold.

use tokio::sync::watch;

/// Bytes that all readers of a connection hold together.
pub(super) const MOST: usize = 32 << 20;
/// Bytes that a reader may hold whatever the others hold, so that none waits for another one's handlers.
const OWN: usize = 1 << 20;

/// The bytes that the readers of one connection hold: what RabbitMQ has delivered and is not settled.
pub(super) struct Bytes(watch::Sender<usize>);

impl Default for Bytes {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Bytes {
    /// Takes `size` for a reader that holds `own`; `false` where there is no room. One delivery per reader always has
    /// room: at most [`MOST`], and for each reader [`OWN`] or one delivery, are held in all.
    pub(super) fn take(&self, own: usize, size: usize) -> bool {
        let mut taken = false;
        self.0.send_if_modified(|held| {
            taken = own == 0 || own + size <= OWN || *held + size <= MOST;
            if taken {
                *held += size;
            }
            // Nobody waits for less room.
            false
        });
        taken
    }

    pub(super) fn give_back(&self, size: usize) {
        if size > 0 {
            self.0.send_modify(|held| *held -= size);
        }
    }

    /// Changes when something is given back.
    pub(super) fn given_back(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, MOST, OWN};

    #[test]
    fn every_reader_has_room_for_one_delivery_and_for_small_ones() {
        let bytes = Bytes::default();
        assert!(bytes.take(0, MOST));
        assert!(bytes.take(0, 2 * MOST), "the first of another reader");
        assert!(!bytes.take(2 * MOST, 1));
        assert!(bytes.take(1, OWN - 1), "small ones of a third reader");
        assert!(!bytes.take(OWN, 1));
        bytes.give_back(2 * MOST);
        assert!(!bytes.take(OWN, 1));
        bytes.give_back(MOST);
        assert!(bytes.take(OWN, 1));
    }
}

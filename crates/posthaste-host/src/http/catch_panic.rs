//! A panic in a handler costs its request, not the process or the log's form.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Once;
use std::task::Poll;

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Keeps the process's panic hook quiet about panics that [`catch_panic`] catches and its caller logs; every other
/// panic reaches the hook that was there before.
pub(super) fn quieten_hook() {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CATCHING.get() {
                PLACE.set(info.location().map(ToString::to_string));
            } else {
                before(info);
            }
        }));
    });
}

/// A panic's text and place in the source.
pub(super) struct Panicked {
    pub(super) message: String,
    pub(super) place: String,
}

/// What `work` answers, or how it panicked.
pub(super) async fn catch_panic<F: Future>(work: F) -> Result<F::Output, Panicked> {
    let mut work = pin!(work);
    poll_fn(move |cx| {
        let before = CATCHING.replace(true);
        // `work` is never polled again after a panic, so nobody sees what it left half done.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        CATCHING.set(before);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => {
                let place = PLACE.take().unwrap_or_default();
                Poll::Ready(Err(Panicked {
                    message: text(&*payload),
                    place,
                }))
            }
        }
    })
    .await
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
        .to_owned()
}

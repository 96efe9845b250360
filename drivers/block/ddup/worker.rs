// SPDX-License-Identifier: GPL-2.0

//! The work items of a store, and the inbox of its completions.
//!
//! One [`Worker`] exists per store. It outlives the store's bios, which refer to it, and refers to
//! the store itself until [`Worker::stop`] cuts the circle.

use crate::{io::Io, store::Store};
use kernel::{
    impl_has_delayed_work, impl_has_work, new_delayed_work, new_mutex, new_work,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
    time::msecs_to_jiffies,
    workqueue::{DelayedWork, Work, WorkItem},
};
use kstage::{
    block::bio::Completed,
    llist::Inbox,
    mm::NoIo,
    workqueue::{cancel_delayed_sync, cancel_sync, enqueue_delayed, OwnedQueue},
};

/// Number of the item that runs at once.
const NOW: u64 = 0;

/// Number of the item that runs at a time.
const LATER: u64 = 1;

/// Number of the item that does chores, which may wait for those who wait for requests.
const CHORES: u64 = 2;

#[pin_data]
pub(crate) struct Worker {
    #[pin]
    now: Work<Worker, NOW>,
    #[pin]
    later: DelayedWork<Worker, LATER>,
    #[pin]
    chores: Work<Worker, CHORES>,
    /// Whom it works for; None before the store is made and after it was stopped.
    #[pin]
    store: Mutex<Option<Arc<Store>>>,
    queue: Arc<OwnedQueue>,
    /// Bios that are done and that the engine has not heard of.
    pub(crate) inbox: Inbox<Completed<Io>>,
    /// Somebody waits for the engine to hear of completions.
    eager: Atomic<i32>,
    /// Number of the store's backing device.
    pub(crate) devt: u32,
}

impl_has_work! {
    impl HasWork<Self, 0> for Worker { self.now }
    impl HasWork<Self, 2> for Worker { self.chores }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 1> for Worker { self.later }
}

impl WorkItem<NOW> for Worker {
    type Pointer = Arc<Worker>;

    fn run(this: Arc<Worker>) {
        this.run();
    }
}

impl WorkItem<LATER> for Worker {
    type Pointer = Arc<Worker>;

    fn run(this: Arc<Worker>) {
        this.run();
    }
}

impl WorkItem<CHORES> for Worker {
    type Pointer = Arc<Worker>;

    fn run(this: Arc<Worker>) {
        let _noio = NoIo::enter();
        let store = this.store.lock().clone();

        if let Some(store) = store {
            store.chores();
        }
    }
}

impl Worker {
    /// Makes a worker for no store yet, on the device `devt`. May sleep.
    pub(crate) fn new(queue: Arc<OwnedQueue>, devt: u32) -> Result<Arc<Worker>> {
        Arc::pin_init(
            pin_init!(Worker {
                now <- new_work!("ddup::Worker::now"),
                later <- new_delayed_work!("ddup::Worker::later"),
                chores <- new_work!("ddup::Worker::chores"),
                store <- new_mutex!(None, "ddup::Worker::store"),
                queue,
                inbox: Inbox::new(),
                eager: Atomic::new(0),
                devt,
            }),
            GFP_KERNEL,
        )
    }

    /// Works for `store` from here on. May sleep.
    pub(crate) fn start(&self, store: Arc<Store>) {
        *self.store.lock() = Some(store);
    }

    /// Does not work any more, when this returns. May sleep.
    pub(crate) fn stop(self: &Arc<Self>) {
        let store = self.store.lock().take();

        cancel_sync::<_, NOW>(self);
        cancel_delayed_sync::<_, LATER>(self);
        cancel_sync::<_, CHORES>(self);
        drop(store);
    }

    fn run(&self) {
        let _noio = NoIo::enter();
        let store = self.store.lock().clone();

        if let Some(store) = store {
            store.work();
        }
    }

    /// Runs soon. Any context.
    pub(crate) fn kick(self: &Arc<Self>) {
        // If it is queued already it will run, which is all we want.
        let _ = self.queue.enqueue::<_, NOW>(self.clone());
    }

    /// Does chores soon. Any context.
    pub(crate) fn tell(self: &Arc<Self>) {
        let _ = self.queue.enqueue::<_, CHORES>(self.clone());
    }

    /// Runs in `delay_ms`, instead of when it was asked to before. Any context.
    pub(crate) fn kick_later(self: &Arc<Self>, delay_ms: u32) {
        enqueue_delayed::<_, LATER>(&self.queue, self.clone(), msecs_to_jiffies(delay_ms));
    }

    /// A bio is done. Any context.
    pub(crate) fn report(self: &Arc<Self>, bio: Completed<Io>, urgent: bool) {
        // Pushing is a full barrier, as is what follows `set_eager`: either we see that somebody
        // waits, or he sees the bio.
        self.inbox.push(bio);
        if urgent || self.eager.load(Relaxed) != 0 {
            self.kick();
        }
    }

    /// Whether completions are to be followed by a run. A full barrier and a look at the inbox must
    /// follow.
    pub(crate) fn set_eager(&self, eager: bool) {
        self.eager.store(i32::from(eager), Relaxed);
    }

    /// Whether completions are followed by a run.
    pub(crate) fn is_eager(&self) -> bool {
        self.eager.load(Relaxed) != 0
    }
}

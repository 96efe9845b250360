// SPDX-License-Identifier: GPL-2.0

//! Kernel threads, for long blocking work that would sit on a work queue's thread.
//!
//! C header: `include/linux/kthread.h`.
//! Upstream replacement: none yet (a `kernel::kthread`).

use crate::bindings;
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    error::from_err_ptr,
    prelude::*,
    str::CStr,
    sync::{Arc, Completion},
};

/// Tells a thread's body whether it shall end.
pub struct StopFlag {
    _thread: PhantomData<*const ()>,
}

impl StopFlag {
    /// Whether [`Kthread::stop`] was called. The body must return soon after.
    pub fn is_set(&self) -> bool {
        // SAFETY: `StopFlag`s exist in the thread's body only.
        unsafe { bindings::kthread_should_stop() }
    }
}

/// What the new thread gets.
struct Start<F> {
    body: F,
    started: Arc<Completion>,
    done: Arc<Completion>,
}

/// A running thread. Dropping it asks it to stop and waits for it. May sleep.
///
/// # Invariants
///
/// `task` is a kernel thread that was not stopped, with a reference that `self` owns.
pub struct Kthread {
    task: NonNull<bindings::task_struct>,
    done: Arc<Completion>,
}

// SAFETY: A thread may be stopped by any other.
unsafe impl Send for Kthread {}
// SAFETY: As above.
unsafe impl Sync for Kthread {}

impl Kthread {
    /// Starts a thread. May sleep.
    pub fn spawn<F>(name: &CStr, body: F) -> Result<Kthread>
    where
        F: FnOnce(&StopFlag) + Send + 'static,
    {
        let started = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let start = KBox::new(
            Start {
                body,
                started: started.clone(),
                done: done.clone(),
            },
            GFP_KERNEL,
        )?;
        let start: *mut Start<F> = KBox::into_raw(start);

        // SAFETY: `run` takes the box back, exactly once.
        let task = from_err_ptr(unsafe {
            bindings::kstage_kthread_run(Some(run::<F>), start.cast(), name.as_char_ptr())
        });

        match task {
            Ok(task) => {
                // A thread that is stopped before it runs would never call `run`.
                started.wait_for_completion();

                // INVARIANT: The helper took a reference.
                Ok(Kthread {
                    // SAFETY: Not NULL, as it is no error.
                    task: unsafe { NonNull::new_unchecked(task) },
                    done,
                })
            }
            Err(err) => {
                // SAFETY: The thread was not made, so the box is still ours.
                drop(unsafe { KBox::from_raw(start) });
                Err(err)
            }
        }
    }

    /// Waits until the body has returned by itself. May sleep.
    pub fn wait(&self) {
        self.done.wait_for_completion();
    }
}

impl Drop for Kthread {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; our reference keeps a thread that has ended.
        unsafe { bindings::kthread_stop_put(self.task.as_ptr()) };
    }
}

/// # Safety
///
/// Called once by a new thread, with a pointer from `KBox::into_raw`.
unsafe extern "C" fn run<F: FnOnce(&StopFlag)>(data: *mut c_void) -> c_int {
    // SAFETY: By the contract.
    let start = unsafe { KBox::from_raw(data.cast::<Start<F>>()) };
    let Start {
        body,
        started,
        done,
    } = KBox::into_inner(start);

    started.complete_all();

    body(&StopFlag {
        _thread: PhantomData,
    });
    done.complete_all();
    0
}

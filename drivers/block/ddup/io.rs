// SPDX-License-Identifier: GPL-2.0

//! Contexts of a store's bios, and what is done when one is done.
//!
//! A completion runs in any context and never takes the engine's lock: it verifies or compares, puts
//! the bio itself into the worker's inbox as the report for the engine, and then gives up its part
//! of the request. So a read ends here when the engine has handed it over and all of its data I/O
//! succeeded, and the engine is told before it, by the order of the inbox, though later. A bio that
//! failed keeps its part, and thereby the request, until the engine has decided. Bios of a write have
//! its data and no part of it: it may end before they are done.

use crate::{
    content::{self, BLOCK_SIZE},
    engine::{format::journal, Buf, Check, Cluster, DataResult, IoToken, Tag},
    queue::Queue,
    trace::{self, DataWork, RequestId},
    worker::Worker,
    write_data::WriteData,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc, Completion,
    },
};
use kstage::{
    block::{
        bio::{Completed, EndIo},
        mq::Part,
    },
    hash,
    llist::Inbox,
    page_pool::PageBuf,
};

/// What a data bio does.
pub(crate) enum Work {
    /// Reads into the request and verifies under this key.
    Read {
        /// The request. Taken when the I/O was done and good.
        part: Option<Part<Queue>>,
        /// Key of checks.
        check_key: u64,
    },
    /// Writes the copy of a write's data.
    Write(Arc<WriteData>),
    /// Reads a cluster to compare it with such a copy.
    Compare(Arc<WriteData>, Cluster, PageBuf),
}

impl Work {
    /// What it is for tracepoints.
    pub(crate) fn kind(&self) -> DataWork {
        match self {
            Work::Read { .. } => DataWork::Read,
            Work::Write(_) => DataWork::Write,
            Work::Compare(..) => DataWork::Compare,
        }
    }
}

/// Data I/O of neighbouring blocks of a request.
pub(crate) struct DataIo {
    pub(crate) request: RequestId,
    pub(crate) tag: Tag,
    pub(crate) block: u32,
    pub(crate) count: u32,
    pub(crate) work: Work,
    /// How it went, when it is done; of those blocks that are not `bad`.
    pub(crate) result: DataResult,
    /// Blocks that did not match their checks, counted from `block`.
    pub(crate) bad: [u64; 4],
}

impl DataIo {
    pub(crate) fn new(request: RequestId, tag: Tag, block: u32, count: u32, work: Work) -> Self {
        DataIo {
            request,
            tag,
            block,
            count,
            work,
            result: DataResult::Failed,
            bad: [0; 4],
        }
    }

    /// Whether a block, counted from the first, did not match its check.
    pub(crate) fn is_bad(&self, at: u32) -> bool {
        self.bad
            .get(at as usize / 64)
            .is_some_and(|word| word >> (at % 64) & 1 != 0)
    }

    /// Looks at what was read. Any context.
    fn judge(&mut self, ok: bool) {
        self.result = match &self.work {
            _ if !ok => DataResult::Failed,
            Work::Write(_) => DataResult::Ok,
            Work::Read { part: None, .. } => DataResult::Failed,
            Work::Read {
                part: Some(part),
                check_key,
            } => {
                let mut cursor = part.cursor();

                cursor.advance(self.block * BLOCK_SIZE);
                for at in 0..self.count {
                    let found = content::check_of(cursor.xxh64(BLOCK_SIZE, *check_key));
                    let wanted = part
                        .data()
                        .checks
                        .get((self.block + at) as usize)
                        .map(|check| check.load(Relaxed));

                    if wanted != Some(found.0) {
                        if let Some(word) = self.bad.get_mut(at as usize / 64) {
                            *word |= 1 << (at % 64);
                        }
                    }
                }
                DataResult::Ok
            }
            Work::Compare(data, _, page) => match data.pages.get(self.block as usize) {
                Some(own) if own[..] == page[..] => DataResult::Equal,
                Some(_) => DataResult::Differs,
                None => DataResult::Failed,
            },
        };
    }

    /// Tells that it is done.
    fn tell_done(&self) {
        let result = match self.bad == [0; 4] {
            true => self.result,
            false => DataResult::Mismatch,
        };

        trace::data_done(
            &self.request,
            self.work.kind(),
            self.block,
            self.count,
            result,
        );
    }

    /// Whether nobody has to decide anything.
    fn is_good(&self) -> bool {
        self.result == DataResult::Ok && self.bad == [0; 4]
    }
}

/// What is to be done with metadata I/O that succeeded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Report it.
    Report,
    /// Flush the device, and report that.
    Flush,
    /// Hold the data that was read against its check under this key, and report that.
    Verify(Check, u64),
}

/// The most requests that end in the completion of one journal write. Others wait for the worker.
pub(crate) const COMMITTED_MAX: usize = 4;

/// A request that ends with a write of the journal.
pub(crate) struct Committed {
    pub(crate) tag: Tag,
    /// The request. Taken when the write was done and good.
    pub(crate) part: Option<Part<Queue>>,
}

/// Requests that end with a write of the journal.
pub(crate) type Commit = [Option<Committed>; COMMITTED_MAX];

/// Metadata I/O.
pub(crate) struct MetaIo {
    pub(crate) token: IoToken,
    pub(crate) buf: Buf,
    pub(crate) then: Then,
    pub(crate) commit: Commit,
    /// How it went, when it is done.
    pub(crate) ok: bool,
}

impl MetaIo {
    pub(crate) fn new(token: IoToken, buf: Buf, then: Then) -> Self {
        MetaIo {
            token,
            buf,
            then,
            commit: [const { None }; COMMITTED_MAX],
            ok: false,
        }
    }

    /// Tells that a block of the journal is durable, or could not be written.
    fn tell_done(&self, worker: &Worker) {
        let is_over = self.then == Then::Report || !self.ok;

        if trace::ddup_journal_done_enabled() && self.token == IoToken::Journal && is_over {
            let sequence = journal::sequence_of(&self.buf);

            trace::ddup_journal_done(worker.devt, sequence, self.ok);
        }
    }
}

/// The write of a block that came from a peer.
pub(crate) struct StageIo {
    pub(crate) tag: Tag,
    /// The block.
    pub(crate) handle: u64,
    pub(crate) page: PageBuf,
    /// How it went, when it is done.
    pub(crate) ok: bool,
}

/// Who wants a block that no request reads.
#[derive(Clone, Copy)]
pub(crate) enum Reader {
    /// A peer that asked for it, by this name.
    Peer(u64),
    /// A block of a scrub's run.
    Scrub(Tag, u32),
}

/// The read of a block for nobody's request, into a page of its own.
pub(crate) struct CheckedIo {
    pub(crate) reader: Reader,
    /// What the content must match, under this key.
    pub(crate) check: Check,
    pub(crate) check_key: u64,
    pub(crate) page: PageBuf,
    /// Whether it was read and matches, when it is done.
    pub(crate) result: DataResult,
}

impl CheckedIo {
    /// Looks at what was read. Any context.
    fn judge(&mut self, ok: bool) {
        let matches =
            || content::check_of(hash::xxh64(&self.page[..], self.check_key)) == self.check;

        self.result = match ok {
            true if matches() => DataResult::Ok,
            true => DataResult::Mismatch,
            false => DataResult::Failed,
        };
    }
}

/// The read of neighbouring blocks of a frame that is to be sent. The engine hears nothing of it.
pub(crate) struct SendIo {
    /// Number of the first one in the frame.
    pub(crate) first: usize,
    pub(crate) pages: KVec<PageBuf>,
    pub(crate) gather: Arc<Gather>,
}

/// All reads for one frame, for the thread that waits for them. It takes what is done in any case:
/// bios there refer to this.
#[pin_data]
pub(crate) struct Gather {
    /// Reads under way, and one while more may begin.
    left: Atomic<i32>,
    #[pin]
    all: Completion,
    pub(crate) done: Inbox<Completed<Io>>,
}

impl Gather {
    /// May sleep.
    pub(crate) fn new() -> Result<Arc<Gather>> {
        Arc::pin_init(
            pin_init!(Gather {
                left: Atomic::new(1),
                all <- Completion::new(),
                done: Inbox::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// One more is about to be submitted.
    pub(crate) fn begin(&self) {
        self.left.add(1, Relaxed);
    }

    fn end(&self) {
        if self.left.fetch_sub(1, Full) == 1 {
            self.all.complete_all();
        }
    }

    /// Waits until all are done; none begins after. May sleep.
    pub(crate) fn wait(&self) {
        self.end();
        self.all.wait_for_completion();
    }
}

/// Context of a bio.
pub(crate) enum Io {
    Data(DataIo),
    Meta(MetaIo),
    Stage(StageIo),
    Checked(CheckedIo),
    Send(SendIo),
}

impl Io {
    /// The request that a data I/O reads into.
    pub(crate) fn request(&self) -> Option<&Part<Queue>> {
        match self {
            Io::Data(DataIo {
                work: Work::Read { part, .. },
                ..
            }) => part.as_ref(),
            _ => None,
        }
    }

    /// The copies that a write writes.
    pub(crate) fn pages(&self) -> Option<&[PageBuf]> {
        match self {
            Io::Data(DataIo {
                work: Work::Write(data),
                block,
                count,
                ..
            }) => data.pages.get(*block as usize..(*block + *count) as usize),
            Io::Stage(stage) => Some(core::slice::from_ref(&stage.page)),
            _ => None,
        }
    }

    /// The pages that are read into.
    pub(crate) fn pages_mut(&mut self) -> Option<&mut [PageBuf]> {
        match self {
            Io::Data(DataIo {
                work: Work::Compare(_, _, page),
                ..
            }) => Some(core::slice::from_mut(page)),
            Io::Checked(checked) => Some(core::slice::from_mut(&mut checked.page)),
            Io::Send(send) => Some(&mut send.pages),
            _ => None,
        }
    }

    /// The buffer of metadata.
    pub(crate) fn buffer(&self) -> Option<&Buf> {
        match self {
            Io::Meta(meta) => Some(&meta.buf),
            _ => None,
        }
    }

    /// The buffer of metadata.
    pub(crate) fn buffer_mut(&mut self) -> Option<&mut Buf> {
        match self {
            Io::Meta(meta) => Some(&mut meta.buf),
            _ => None,
        }
    }

    /// The I/O did not happen: its buffer, and the requests that would have ended with it.
    pub(crate) fn into_parts(self) -> (Buf, Commit) {
        match self {
            Io::Meta(meta) => (meta.buf, meta.commit),
            _ => (Buf::new(), Default::default()),
        }
    }

    /// The I/O did not happen: the request loses nothing but this part.
    pub(crate) fn give_back(self) {
        if let Io::Data(DataIo {
            work: Work::Read {
                part: Some(part), ..
            },
            ..
        }) = self
        {
            part.finish(Ok(()));
        }
    }
}

impl EndIo for Io {
    type Shared = Arc<Worker>;

    fn end_io(mut bio: Completed<Self>, worker: &Arc<Worker>) {
        let ok = bio.result().is_ok();

        match bio.context_mut() {
            Io::Meta(meta) => {
                meta.ok = ok;
                meta.tell_done(worker);

                // Those that are not ours to end, or of which there are more, wait for the worker.
                let done = ok && meta.then == Then::Report;
                let mut ended = [const { None }; COMMITTED_MAX];
                let mut urgent = true;

                for (committed, ended) in meta.commit.iter_mut().flatten().zip(&mut ended) {
                    if done {
                        *ended = committed.part.take();
                        urgent = false;
                    }
                }
                worker.report(bio, urgent);
                for part in ended.into_iter().flatten() {
                    part.finish(Ok(()));
                }
            }
            Io::Data(data) => {
                data.judge(ok);
                data.tell_done();

                let good = data.is_good();
                let part = match &mut data.work {
                    Work::Read { part, .. } if good => part.take(),
                    _ => None,
                };

                worker.report(bio, !good);
                if let Some(part) = part {
                    part.finish(Ok(()));
                }
            }
            Io::Stage(stage) => {
                stage.ok = ok;
                worker.report(bio, true);
            }
            Io::Checked(checked) => {
                checked.judge(ok);
                worker.report(bio, true);
            }
            Io::Send(send) => {
                let gather = send.gather.clone();

                gather.done.push(bio);
                gather.end();
            }
        }
    }
}

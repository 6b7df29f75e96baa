//! Threads that answer what takes longer.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

/// A bounded number of threads that are started as they are needed, and a bounded queue before them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    name: &'static str,
    most: usize,
    waiting: usize,
}

struct Shared {
    state: Mutex<State>,
    /// There is a job, or the end.
    work: Condvar,
    /// A job was taken or is done.
    progress: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    idle: usize,
    busy: usize,
    /// How many wait for progress. Waking nobody still costs a call into the system.
    watching: usize,
    over: bool,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// At most `most` threads, and as many jobs as `waiting` before somebody who brings one has to wait.
    pub(super) fn new(name: &'static str, most: usize, waiting: usize) -> Self {
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), progress: Condvar::new() };
        Self { shared: Arc::new(shared), name, most, waiting }
    }

    /// Brings a job. A job that panics takes nothing else with it.
    pub(super) fn submit(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        while state.queue.len() >= self.waiting {
            state = self.shared.watch(state);
        }
        state.queue.push_back(Box::new(job));
        if state.idle >= state.queue.len() || state.threads.len() >= self.most {
            let sleeping = state.idle > 0;
            drop(state);
            if sleeping {
                self.shared.work.notify_one();
            }
            return;
        }
        let shared = self.shared.clone();
        match Builder::new().name(self.name.to_owned()).spawn(move || shared.run()) {
            Ok(thread) => state.threads.push(thread),
            // Others will come to it; without any other thread it is done here.
            Err(_) if !state.threads.is_empty() => {}
            Err(_) => {
                let job = state.queue.pop_back();
                drop(state);
                if let Some(job) = job {
                    run(job);
                }
            }
        }
    }

    /// Waits until all that was brought is done.
    pub(super) fn drain(&self) {
        let mut state = self.shared.lock();
        while !state.queue.is_empty() || state.busy > 0 {
            state = self.shared.watch(state);
        }
    }

    /// Forgets what nobody has begun.
    pub(super) fn forget(&self) {
        let forgotten = std::mem::take(&mut self.shared.lock().queue);
        // Outside the lock: a job that is dropped answers.
        drop(forgotten);
        self.shared.progress.notify_all();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let threads = {
            let mut state = self.shared.lock();
            state.over = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.work.notify_all();
        for thread in threads {
            // Jobs that panic are caught, so there is nothing to hear.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.watching += 1;
        let mut state = self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.watching -= 1;
        state
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                state.busy += 1;
                if state.watching > 0 {
                    self.progress.notify_all();
                }
                drop(state);
                run(job);
                state = self.lock();
                state.busy -= 1;
                if state.watching > 0 {
                    self.progress.notify_all();
                }
            } else if state.over {
                return;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

fn run(job: Job) {
    // What a panic leaves behind is the job's own; its answer is sent when it is dropped.
    let _ = catch_unwind(AssertUnwindSafe(job));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn all_jobs_are_done_although_some_panic() {
        let (pool, done) = (Pool::new("test", 3, 2), Arc::new(AtomicUsize::new(0)));
        for number in 0..100 {
            let done = done.clone();
            pool.submit(move || {
                assert!(number % 10 != 0, "meant to panic");
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        pool.drain();
        assert_eq!(done.load(Ordering::SeqCst), 90);
    }

    #[test]
    fn what_was_not_begun_can_be_forgotten() {
        let (pool, done) = (Pool::new("test", 1, 10), Arc::new(AtomicUsize::new(0)));
        let (begun, wait_begun) = sync_channel(1);
        let (go_on, wait_go_on) = sync_channel::<()>(1);
        pool.submit(move || {
            begun.send(()).unwrap();
            wait_go_on.recv().unwrap();
        });
        wait_begun.recv().unwrap();
        for _ in 0..5 {
            let done = done.clone();
            pool.submit(move || {
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        pool.forget();
        go_on.send(()).unwrap();
        pool.drain();
        assert_eq!(done.load(Ordering::SeqCst), 0);
    }
}

/// How many jobs of one subject may wait for a reply at the same time.
///
/// The window follows what the consumers accept. It grows with each job that a consumer accepts,
/// fast at first. When a job is refused because consumers are full, it halves, once for all jobs
/// that were already sent. So a burst to a slow fleet is refused a few times, and then waits in the
/// publisher.
#[derive(Debug)]
pub(super) struct Window {
    limit: usize,
    max: usize,
    /// Below this limit the window grows by one for each accepted job; from there on by one for each
    /// `limit` accepted jobs.
    threshold: usize,
    /// Jobs accepted since the window last grew, while it grows slowly.
    credit: usize,
    /// Whether a job was accepted since the window last halved.
    accepted: bool,
    /// Sequence number of the last message that was sent before the window last halved.
    halved_at: u64,
}

impl Window {
    /// Large enough to be fast from the start, and small enough not to flood full consumers.
    const START: usize = 256;

    pub(super) fn new(max: usize) -> Self {
        Self {
            limit: max.min(Self::START),
            max,
            threshold: usize::MAX,
            credit: 0,
            accepted: false,
            halved_at: 0,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Grows after a consumer accepted a job.
    pub(super) fn accepted(&mut self) {
        self.accepted = true;
        if self.limit >= self.max {
            return;
        }
        self.credit += 1;
        if self.limit < self.threshold || self.credit >= self.limit {
            self.credit = 0;
            self.limit += 1;
        }
    }

    /// Halves after a job was refused because consumers are full. `sent` is the sequence number, from
    /// 1, with which the job was sent, and `last` the one that was used last.
    pub(super) fn refused(&mut self, sent: u64, last: u64) {
        if sent <= self.halved_at {
            return;
        }
        self.halved_at = last;
        self.limit = (self.limit / 2).max(1);
        self.credit = 0;
        // If no job was accepted since the last time, the consumers are not full but gone. The
        // threshold stays, so the window grows fast again when they are back.
        if std::mem::take(&mut self.accepted) {
            self.threshold = self.limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(window: &mut Window, jobs: usize) {
        for _ in 0..jobs {
            window.accepted();
        }
    }

    #[test]
    fn it_starts_wide_and_doubles_in_each_round_up_to_its_bound() {
        let mut window = Window::new(1024);
        assert_eq!(window.limit(), 256);
        accept(&mut window, 256);
        assert_eq!(window.limit(), 512);
        accept(&mut window, 512);
        assert_eq!(window.limit(), 1024);
        accept(&mut window, 10_000);
        assert_eq!(window.limit(), 1024);
        assert_eq!(Window::new(8).limit(), 8);
    }

    #[test]
    fn it_halves_once_for_all_jobs_that_were_already_sent() {
        let mut window = Window::new(64);
        for sent in 1..=64 {
            window.refused(sent, 64);
        }
        assert_eq!(window.limit(), 32);
        window.refused(65, 70);
        assert_eq!(window.limit(), 16);
        window.refused(70, 71);
        assert_eq!(
            window.limit(),
            16,
            "70 was already sent when the window halved"
        );
    }

    #[test]
    fn it_never_closes() {
        let mut window = Window::new(4);
        for sent in 1..100 {
            window.refused(sent, sent);
        }
        assert_eq!(window.limit(), 1);
        window.accepted();
        assert_eq!(window.limit(), 2);
    }

    #[test]
    fn after_full_consumers_it_grows_slowly() {
        let mut window = Window::new(64);
        window.accepted();
        window.refused(64, 64);
        assert_eq!(window.limit(), 32);
        accept(&mut window, 31);
        assert_eq!(window.limit(), 32);
        window.accepted();
        assert_eq!(window.limit(), 33);
    }

    #[test]
    fn after_absent_consumers_it_grows_fast() {
        let mut window = Window::new(64);
        window.accepted();
        for sent in 64..80 {
            window.refused(sent, sent);
        }
        assert_eq!(window.limit(), 1);
        accept(&mut window, 31);
        assert_eq!(
            window.limit(),
            32,
            "half of what it was, after as many jobs"
        );
        accept(&mut window, 31);
        assert_eq!(window.limit(), 32);
    }

    #[test]
    fn it_settles_near_the_capacity_of_the_consumers() {
        const ROOM: usize = 6;
        let mut window = Window::new(64);
        let (mut sent, mut refused, mut waiting) = (0, 0, 0);
        for _ in 0..1_000 {
            while waiting < window.limit() {
                sent += 1;
                if waiting < ROOM {
                    waiting += 1;
                } else {
                    refused += 1;
                    window.refused(sent, sent);
                }
            }
            waiting -= 1;
            window.accepted();
        }
        assert!(refused < 100, "{refused} of {sent} were refused");
        assert!((1..=2 * ROOM).contains(&window.limit()), "{window:?}");
    }
}

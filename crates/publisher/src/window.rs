/// How many jobs may wait for an answer at the same time: as many as the consumers take.
///
/// It opens with each job that a consumer takes, fast at first, and halves when one is refused for
/// want of room, once for all jobs that were on their way at that moment. So a burst at a slow
/// fleet is refused a few times, and then waits here instead of there.
#[derive(Debug)]
pub(crate) struct Window {
    limit: usize,
    max: usize,
    /// Below it the window opens by one for each job taken, from there on by one for each round of
    /// jobs.
    threshold: usize,
    /// Jobs taken since the window last opened, where it opens slowly.
    credit: usize,
    /// Whether a job was taken since the window last halved.
    taken: bool,
    /// The last job that was on its way when the window last halved.
    halved_at: u64,
}

impl Window {
    /// Enough to be fast from the start, and few enough to be refused without a storm.
    const START: usize = 256;

    pub(crate) fn new(max: usize) -> Self {
        Self {
            limit: max.min(Self::START),
            max,
            threshold: usize::MAX,
            credit: 0,
            taken: false,
            halved_at: 0,
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// A consumer took a job.
    pub(crate) fn accepted(&mut self) {
        self.taken = true;
        if self.limit >= self.max {
            return;
        }
        self.credit += 1;
        if self.limit < self.threshold || self.credit >= self.limit {
            self.credit = 0;
            self.limit += 1;
        }
    }

    /// A job was refused for want of room; `sent` is its place in the order of what was sent, from
    /// 1, and `last` that of the job that was sent last.
    pub(crate) fn refused(&mut self, sent: u64, last: u64) {
        if sent <= self.halved_at {
            return;
        }
        self.halved_at = last;
        self.limit = (self.limit / 2).max(1);
        self.credit = 0;
        // Where nothing was taken since the last time, the consumers are not full but gone: when
        // they are back, the window may open fast again.
        if std::mem::take(&mut self.taken) {
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
    fn it_halves_once_for_all_jobs_that_were_on_their_way() {
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
            "70 was on its way when the window halved"
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
    fn consumers_that_were_full_are_approached_slowly() {
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
    fn consumers_that_were_gone_are_approached_fast() {
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
    fn it_settles_near_what_the_consumers_hold() {
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

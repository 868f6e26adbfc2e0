//! The steps of the protocol, and which of them are possible.

use stateright::{Model, Property};

use crate::case::{Budget, Case};
use crate::consumer::{Consumer, Duty, Operator, Step};
use crate::guard::Guard;
use crate::server::{
    CancelRequest, Delivery, Job, JobState, Message, Older, Place, Server, Submission, Wrong,
};

pub(crate) const NOT_LOST: &str = "no acknowledged job is lost";
pub(crate) const NOT_STUCK: &str = "no acknowledged job or request to cancel stays for ever";
pub(crate) const ONE_END: &str = "no end is contradicted";
pub(crate) const RAN: &str = "succeeded means that the handler returned";
pub(crate) const CANCELLED: &str = "a cancelled job does not succeed";
pub(crate) const NOT_AFTER_END: &str = "a job that was looked up does not run after its end";
pub(crate) const NOT_WITHOUT_CAUSE: &str = "no job runs twice without a cause";

pub(crate) const SUCCEEDS: &str = "a job succeeds";
pub(crate) const DIES: &str = "a job becomes a dead letter";
pub(crate) const IS_CANCELLED: &str = "a job is cancelled";
pub(crate) const SUCCEEDS_LATER: &str = "a job succeeds in its second run";
pub(crate) const IS_PURGED: &str = "the message of an ended job is purged";
pub(crate) const EXPIRES: &str = "a record expires";

/// The protocol of durable jobs in one case, without one of its guards.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) case: Case,
    pub(crate) without: Option<Guard>,
}

/// Everything that there is at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) server: Server,
    /// In order, because it does not matter which is which.
    pub(crate) consumers: Vec<Consumer>,
    pub(crate) operators: Vec<Operator>,
    /// What may still happen.
    pub(crate) left: Budget,
}

/// What becomes of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Answered,
    AnswerLost,
    Lost,
}

/// A step. The names are those of the code where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// `Submitter::submit`, the first time or again.
    Submit {
        job: u8,
        sent: Sent,
    },
    /// `Intake::take`: a message is delivered, its record is looked up, from the leader or a follower that
    /// is behind, and it is decided what to do.
    Take {
        consumer: usize,
        message: u8,
        follower: bool,
    },
    /// `heartbeat::announce`: the record says that the job runs.
    Announce {
        consumer: usize,
    },
    /// The handler returns, and `Settler::settle` stores the outcome.
    Return {
        consumer: usize,
        succeeded: bool,
    },
    /// The consumer stops, and `JobStore::give_back` stores the record.
    GiveBack {
        consumer: usize,
    },
    /// The next step of a settlement.
    Settle {
        consumer: usize,
        step: Step,
    },
    /// `Cancel::carry_out` or `MaxDeliveries::carry_out` begins.
    TakeRequest {
        consumer: usize,
        job: u8,
    },
    TakeAdvisory {
        consumer: usize,
        message: u8,
    },
    /// Its next step.
    CarryOut {
        consumer: usize,
        duty: Duty,
    },
    /// `client::cancel`.
    Cancel {
        job: u8,
    },
    /// `dead_letters::replay` begins.
    ReadLetter {
        operator: usize,
        job: u8,
    },
    /// Its next step.
    Replay {
        operator: usize,
        step: Operator,
    },
    /// A scheduled message becomes one that is due.
    ScheduleFires {
        job: u8,
    },
    /// Nobody has acknowledged the message in time.
    AckWaitOver {
        message: u8,
    },
    /// `Purge::purge_queue`.
    Purge {
        place: Place,
    },
    /// `Expiry::remove_old`, or the time to live is over.
    Expire {
        job: u8,
    },
    Crash {
        consumer: usize,
    },
    Stall {
        consumer: usize,
    },
    Resume {
        consumer: usize,
    },
    LoseAck {
        consumer: usize,
    },
    CrashOperator {
        operator: usize,
    },
    CrashServer,
}

impl Protocol {
    pub(crate) fn has(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }

    /// What happens by itself if nothing goes wrong: the steps that have to bring each job to an end.
    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        let server = &state.server;
        for job in self.jobs() {
            if server.job(job).submission == Submission::InDoubt {
                let sent = Sent::Answered;
                actions.push(Action::Submit { job, sent });
            }
            if server.job(job).later.is_some() {
                actions.push(Action::ScheduleFires { job });
            }
        }
        for message in &server.messages {
            let sequence = message.sequence;
            if message.delivery == Delivery::Pending && !is_held(state, sequence) {
                actions.push(Action::AckWaitOver { message: sequence });
            }
        }
        for (consumer, it) in distinct(&state.consumers) {
            if it.stalled {
                actions.push(Action::Resume { consumer });
            } else {
                self.progress_of(state, consumer, it, actions);
            }
        }
        for (operator, step) in state.operators.iter().enumerate() {
            if *step != Operator::Idle {
                let step = *step;
                actions.push(Action::Replay { operator, step });
            }
        }
    }

    fn progress_of(
        &self,
        state: &State,
        consumer: usize,
        it: &Consumer,
        actions: &mut Vec<Action>,
    ) {
        let server = &state.server;
        match it.lease.map(|lease| lease.step) {
            None => {
                let waiting = server
                    .messages
                    .iter()
                    .filter(|message| message.delivery == Delivery::Waiting);
                actions.extend(waiting.map(|message| Action::Take {
                    consumer,
                    message: message.sequence,
                    follower: false,
                }));
            }
            Some(Step::Run { .. }) => {
                for succeeded in [true, false] {
                    if succeeded || self.case.fails {
                        actions.push(Action::Return {
                            consumer,
                            succeeded,
                        });
                    }
                }
            }
            Some(step) => actions.push(Action::Settle { consumer, step }),
        }
        if let Some(duty) = it.duty {
            actions.push(Action::CarryOut { consumer, duty });
            return;
        }
        // The durable consumers of these requests deliver each to one consumer.
        let duties = || {
            let running = state.consumers.iter().filter(|other| !other.stalled);
            running.filter_map(|other| other.duty)
        };
        for job in self.jobs() {
            let is_taken = duties().any(|duty| {
                matches!(duty, Duty::MarkCancelled { job: of, .. } | Duty::DeleteMessages { job: of } if of == job)
            });
            if server.job(job).cancel == CancelRequest::Acknowledged && !is_taken {
                actions.push(Action::TakeRequest { consumer, job });
            }
        }
        for message in server.advisories.iter().copied() {
            let is_taken = duties().any(|duty| {
                matches!(duty, Duty::MakeDeadLetter { message: of, .. } | Duty::DeleteMessage { message: of } if of == message)
            });
            if !is_taken {
                actions.push(Action::TakeAdvisory { consumer, message });
            }
        }
    }

    /// What somebody may wish, and what the fleet does now and then.
    fn wishes(&self, state: &State, actions: &mut Vec<Action>) {
        let (server, left) = (&state.server, state.left);
        for job in self.jobs() {
            let it = server.job(job);
            if it.submission != Submission::InDoubt && it.submitters < self.case.submitters {
                let sent = Sent::Answered;
                actions.push(Action::Submit { job, sent });
            }
            let is_stored = it.submission != Submission::Outstanding;
            if left.cancels > 0 && it.cancel == CancelRequest::None && is_stored {
                actions.push(Action::Cancel { job });
            }
            if self.may_expire(state, job) {
                actions.push(Action::Expire { job });
            }
            if left.replays > 0 && it.letter.is_some() {
                let mut idle = state.operators.iter().enumerate();
                let idle = idle.find(|(_, step)| **step == Operator::Idle);
                actions.extend(idle.map(|(operator, _)| Action::ReadLetter { operator, job }));
            }
        }
        for place in [Place::Queue, Place::Due] {
            if self.purged(server, place).next().is_some() {
                actions.push(Action::Purge { place });
            }
        }
        for (consumer, it) in distinct(&state.consumers) {
            let step = it.lease.map(|lease| lease.step);
            if !it.stalled && step == Some(Step::Run { announced: false }) {
                actions.push(Action::Announce { consumer });
            }
        }
    }

    fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        let left = state.left;
        for job in self.jobs() {
            let submission = state.server.job(job).submission;
            if left.lost_answers > 0 && submission != Submission::Acknowledged {
                for sent in [Sent::AnswerLost, Sent::Lost] {
                    actions.push(Action::Submit { job, sent });
                }
            }
        }
        for (consumer, it) in distinct(&state.consumers) {
            let step = it.lease.map(|lease| lease.step);
            let is_busy = it.lease.is_some() || it.duty.is_some();
            if left.crashes > 0 && is_busy {
                actions.push(Action::Crash { consumer });
            }
            if left.stalls > 0 && is_busy && !it.stalled {
                actions.push(Action::Stall { consumer });
            }
            if it.stalled {
                continue;
            }
            if left.drains > 0 && matches!(step, Some(Step::Run { .. })) {
                actions.push(Action::GiveBack { consumer });
            }
            if left.lost_acks > 0 && step == Some(Step::Ack) {
                actions.push(Action::LoseAck { consumer });
            }
            if left.stale_reads > 0 && it.lease.is_none() {
                let waiting = state.server.messages.iter().filter(|message| {
                    let is_behind = state.server.job(message.job).older != Older::Same;
                    message.delivery == Delivery::Waiting && is_behind
                });
                actions.extend(waiting.map(|message| Action::Take {
                    consumer,
                    message: message.sequence,
                    follower: true,
                }));
            }
        }
        if left.operator_crashes > 0 {
            let busy = state.operators.iter().enumerate();
            let busy = busy.filter(|(_, step)| **step != Operator::Idle);
            actions.extend(busy.map(|(operator, _)| Action::CrashOperator { operator }));
        }
        if left.server_crashes > 0 {
            actions.push(Action::CrashServer);
        }
    }

    pub(crate) fn jobs(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.case.jobs
    }

    /// The messages that a purge of a place removes.
    pub(crate) fn purged<'a>(
        &self,
        server: &'a Server,
        place: Place,
    ) -> impl Iterator<Item = &'a Message> + use<'a> {
        let waits = self.has(Guard::PurgeAfterAdvisories) && !server.advisories.is_empty();
        let below_floor = self.has(Guard::PurgeBelowAckFloor);
        let of_place = server.messages.iter().filter(move |it| it.place == place);
        of_place.take_while(move |message| match message.delivery {
            _ if waits => false,
            Delivery::Waiting => false,
            Delivery::Pending => !below_floor,
            Delivery::Acknowledged | Delivery::GivenUp => true,
        })
    }

    /// Whether the record of a job may expire. That it does so only when nobody has the job any more is a
    /// matter of time: records are kept for far longer than the ack wait.
    fn may_expire(&self, state: &State, job: u8) -> bool {
        let record = state.server.job(job).record;
        let ended =
            record.is_some_and(|record| record.state.is_final() && record.state != JobState::Dead);
        let outlives = !self.has(Guard::RecordOutlivesMessage) || !is_alive(&state.server, job);
        state.left.expiries > 0 && ended && outlives
    }
}

/// The consumers, but of those that are alike only one.
fn distinct(consumers: &[Consumer]) -> impl Iterator<Item = (usize, &Consumer)> {
    let mut all = consumers.iter().enumerate();
    let alike = move |index: usize| index > 0 && consumers[index] == consumers[index - 1];
    std::iter::from_fn(move || all.by_ref().find(|(index, _)| !alike(*index)))
}

/// Whether a consumer keeps the lease of a message alive.
fn is_held(state: &State, message: u8) -> bool {
    state.consumers.iter().any(|consumer| {
        !consumer.stalled && consumer.lease.is_some_and(|lease| lease.message == message)
    })
}

/// Whether a message of a job will be delivered.
pub(crate) fn is_alive(server: &Server, job: u8) -> bool {
    let mut of_job = server.messages.iter().filter(|message| message.job == job);
    server.job(job).later.is_some()
        || of_job.any(|message| matches!(message.delivery, Delivery::Waiting | Delivery::Pending))
}

/// Whether something is left of a job that was acknowledged: a message, the record of its end, or its dead
/// letter.
fn is_kept(server: &Server, job: u8) -> bool {
    let it = server.job(job);
    let is_given_up = |message: &Message| {
        let waits = server.advisories.contains(&message.sequence);
        message.job == job && message.delivery == Delivery::GivenUp && waits
    };
    has_ended(it) || is_alive(server, job) || server.messages.iter().any(is_given_up)
}

fn has_ended(job: &Job) -> bool {
    let ended = job.end.is_some_and(|end| end != JobState::Dead);
    ended || job.letter.is_some()
}

fn promised(server: &Server) -> impl Iterator<Item = (u8, &Job)> {
    (0..)
        .zip(&server.jobs)
        .filter(|(_, job)| job.submission == Submission::Acknowledged && !job.forgotten)
}

fn always(name: &'static str, condition: fn(&Protocol, &State) -> bool) -> Property<Protocol> {
    Property::always(name, condition)
}

fn sometimes(name: &'static str, condition: fn(&Protocol, &State) -> bool) -> Property<Protocol> {
    Property::sometimes(name, condition)
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let case = &self.case;
        vec![State {
            server: Server {
                jobs: self.jobs().map(|_| Job::new()).collect(),
                messages: Vec::new(),
                last_sequence: 0,
                advisories: Vec::new(),
                wrong: None,
            },
            consumers: (0..case.consumers).map(|_| Consumer::default()).collect(),
            operators: (0..case.operators).map(|_| Operator::Idle).collect(),
            left: case.most,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.server.wrong.is_some() {
            return;
        }
        self.progress(state, actions);
        self.wishes(state, actions);
        self.faults(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.apply(&mut next, action);
        next.consumers.sort_unstable();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            always(NOT_LOST, |_, state| {
                promised(&state.server).all(|(job, _)| is_kept(&state.server, job))
            }),
            always(NOT_STUCK, |protocol, state| {
                let open = |job: &Job| !has_ended(job) || job.cancel == CancelRequest::Acknowledged;
                let is_open = promised(&state.server).any(|(_, job)| open(job));
                let mut actions = Vec::new();
                if is_open {
                    protocol.progress(state, &mut actions);
                }
                !is_open || !actions.is_empty()
            }),
            always(ONE_END, |_, state| {
                state.server.wrong != Some(Wrong::Contradicted)
            }),
            always(RAN, |_, state| {
                state.server.wrong != Some(Wrong::SucceededWithoutRun)
            }),
            always(CANCELLED, |_, state| {
                state.server.wrong != Some(Wrong::SucceededAfterCancel)
            }),
            always(NOT_AFTER_END, |_, state| {
                state.server.wrong != Some(Wrong::RunAfterEnd)
            }),
            always(NOT_WITHOUT_CAUSE, |_, state| {
                state.server.wrong != Some(Wrong::RunWithoutCause)
            }),
            sometimes(SUCCEEDS, |_, state| ended(state, JobState::Succeeded)),
            sometimes(DIES, |_, state| {
                ended(state, JobState::Dead) && state.server.job(0).letter.is_some()
            }),
            sometimes(IS_CANCELLED, |_, state| {
                ended(state, JobState::Cancelled) && !is_alive(&state.server, 0)
            }),
            sometimes(SUCCEEDS_LATER, |_, state| {
                let record = state.server.job(0).record;
                ended(state, JobState::Succeeded) && record.is_some_and(|record| record.run == 2)
            }),
            sometimes(IS_PURGED, |_, state| {
                ended(state, JobState::Succeeded) && state.server.messages.is_empty()
            }),
            sometimes(EXPIRES, |_, state| state.server.job(0).forgotten),
        ]
    }
}

fn ended(state: &State, end: JobState) -> bool {
    state.server.job(0).end == Some(end)
}

//! What `deploy/nats.conf` grants although no service uses it in the test's run: each with the reason
//! why it is granted all the same. One that is used after all, or not granted any more, fails the
//! test as well.

/// Rights that are granted for a reason of their own.
pub(crate) struct Exception {
    pub(crate) user: &'static str,
    /// `publish` or `subscribe`, and the entry as it stands in the file; or `allow_responses`.
    pub(crate) rights: &'static [&'static str],
    #[expect(dead_code, reason = "for whoever reads the list")]
    pub(crate) reason: &'static str,
}

pub(crate) const EXCEPTIONS: &[Exception] = &[
    Exception {
        user: "worker",
        rights: &[
            "publish $JS.ACK.*.*.JOBS.*.>",
            "publish $JS.ACK.*.*.JOBS_LATER.*.>",
            "publish $JS.ACK.*.*.JOBS_STATE.*.>",
            "publish $JS.ACK.*.*.JOBS_ADVISORIES.*.>",
        ],
        reason: "servers name acknowledgements in one of two forms, and this one in the other; a \
                 server that is updated or set up otherwise would refuse all of them without a word",
    },
    Exception {
        user: "status",
        rights: &[
            "publish $SRV.PING",
            "publish $SRV.PING.>",
            "publish $SRV.INFO",
            "publish $SRV.INFO.>",
            "publish $SRV.STATS",
            "publish $SRV.STATS.>",
        ],
        reason: "people ask with `nats micro ls`, `nats micro stats` and the like, as README.md says",
    },
    Exception {
        user: "publisher",
        rights: &["publish jobs.server.health"],
        reason: "asked only when the server leaves a write unanswered; see tests/durable/storing.rs",
    },
    Exception {
        user: "operator",
        rights: &["publish jobs.server.health"],
        reason: "asked only when the server leaves a write unanswered; see tests/durable/storing.rs",
    },
    Exception {
        user: "application",
        rights: &["publish $JS.API.STREAM.INFO.JOBS"],
        reason: "asked only by programs that submit for more than a second; see \
                 tests/durable/queue_limit.rs",
    },
    Exception {
        user: "application",
        rights: &["publish jobs.server.health"],
        reason: "asked only when the server leaves a write unanswered; see tests/durable/storing.rs",
    },
    Exception {
        user: "worker",
        rights: &["publish jobs.server.health"],
        reason: "asked only when the server leaves a write unanswered; see tests/durable/storing.rs",
    },
    Exception {
        user: "worker",
        rights: &[
            "publish $JS.API.STREAM.UPDATE.JOBS_LATER",
            "publish $JS.API.STREAM.UPDATE.JOBS_STATE",
            "publish $JS.API.STREAM.UPDATE.JOBS_ADVISORIES",
        ],
        reason: "a stream of an older version is changed to what this one declares",
    },
    Exception {
        user: "application",
        rights: &[
            "publish $JS.API.STREAM.MSG.GET.JOBS",
            "publish $JS.API.STREAM.MSG.GET.JOBS_LATER",
            "publish $JS.API.STREAM.MSG.GET.JOBS_STATE",
        ],
        reason: "asked only where the server is in a cluster; see tests/cluster",
    },
    Exception {
        user: "worker",
        rights: &[
            "publish $JS.API.STREAM.MSG.GET.JOBS",
            "publish $JS.API.STREAM.MSG.GET.JOBS_LATER",
            "publish $JS.API.STREAM.MSG.GET.JOBS_STATE",
        ],
        reason: "asked only where the server is in a cluster; see tests/cluster",
    },
    Exception {
        user: "operator",
        rights: &[
            "publish $JS.API.STREAM.MSG.GET.JOBS",
            "publish $JS.API.STREAM.MSG.GET.JOBS_LATER",
            "publish $JS.API.STREAM.MSG.GET.JOBS_STATE",
        ],
        reason: "asked only where the server is in a cluster; see tests/cluster",
    },
    Exception {
        user: "operator",
        rights: &[
            "publish $JS.SNAPSHOT.ACK.JOBS.>",
            "publish $JS.SNAPSHOT.ACK.JOBS_LATER.>",
            "publish $JS.SNAPSHOT.ACK.JOBS_STATE.>",
            "publish $JS.SNAPSHOT.ACK.JOBS_ADVISORIES.>",
        ],
        reason: "a snapshot of up to 128 KiB is one chunk, which is not acknowledged; see tests/durable/backup.rs",
    },
    Exception {
        user: "restore",
        rights: &[
            "publish $JS.API.STREAM.MSG.GET.JOBS",
            "publish $JS.API.STREAM.MSG.GET.JOBS_LATER",
            "publish $JS.API.STREAM.MSG.GET.JOBS_STATE",
        ],
        reason: "asked only where the server is in a cluster; see tests/cluster",
    },
    Exception {
        user: "gateway",
        rights: &[
            "publish $JS.API.STREAM.MSG.GET.JOBS",
            "publish $JS.API.STREAM.MSG.GET.JOBS_LATER",
            "publish $JS.API.STREAM.MSG.GET.JOBS_STATE",
        ],
        reason: "asked only where the server is in a cluster; see tests/cluster",
    },
];

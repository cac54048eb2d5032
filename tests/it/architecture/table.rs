//! The table of ARCHITECTURE.md, and the things that only some rooms may say.
//!
//! Where a row lets a room name more than the document's, the reason stands beside it. `bridge` and `failpoint` have
//! their rows before they have their files.

/// A room, what it may name besides itself, and which crates it may not.
pub struct Room {
    /// The first segments of its modules.
    pub name: &'static str,
    /// Rooms, or single things of them. `*` stands for one name.
    pub may: &'static [&'static str],
    /// Crates and modules outside.
    pub never: &'static [&'static str],
}

/// The way to hand a job over: the order's trait, the row it becomes, where it can be put, and the proof of its run.
const NEW_JOB: &str = "jobs::queue::NewJob";
const FENCE: &str = "jobs::queue::Fence";
const ENQUEUE: &str = "jobs::queue::enqueue";

const WEB: &[&str] = &["poem", "poem_openapi", "reqwest", "hyper"];
const WEB_AND_SQL: &[&str] = &["poem", "poem_openapi", "reqwest", "hyper", "sqlx"];

/// Every room; a file belongs to the one whose name is the longest that its module begins with.
///
/// Where this says more than the table of the document, the reason stands beside it.
pub const ROOMS: &[Room] = &[
    Room {
        name: "domain",
        may: &[],
        never: &[
            "tokio",
            "reqwest",
            "poem",
            "metrics",
            "tracing",
            "sqlx",
            "poem_openapi",
        ],
    },
    Room {
        name: "clock",
        may: &["domain::ids"],
        never: WEB_AND_SQL,
    },
    // Connection options are what a database URL is read into.
    Room {
        name: "config",
        may: &["domain::ids"],
        never: WEB,
    },
    Room {
        name: "crypto",
        may: &["domain::ids"],
        never: WEB_AND_SQL,
    },
    Room {
        name: "telemetry",
        may: &["domain::ids"],
        never: WEB_AND_SQL,
    },
    Room {
        name: "failpoint",
        may: &["domain::ids"],
        never: WEB_AND_SQL,
    },
    Room {
        name: "store",
        may: &[
            "domain",
            "clock",
            "config",
            "crypto",
            "telemetry",
            "failpoint",
        ],
        never: WEB,
    },
    Room {
        name: "live",
        may: &[
            "store",
            // How full the queues are is read by the engine's own statements.
            "jobs::queue::admin",
            "domain",
            "clock",
            "config",
            "crypto",
            "telemetry",
            "failpoint",
        ],
        never: WEB,
    },
    Room {
        name: "providers",
        may: &[
            "domain",
            "clock",
            "config",
            "crypto",
            "telemetry",
            "failpoint",
        ],
        never: &["poem", "poem_openapi", "sqlx"],
    },
    Room {
        name: "jobs::queue",
        may: &["clock", "telemetry", "failpoint"],
        never: WEB,
    },
    Room {
        name: "delivery",
        may: &[
            NEW_JOB,
            FENCE,
            ENQUEUE,
            // The release writes its jobs in the statement that lets messages out, and says what they are.
            "jobs::queue::Payload",
            "providers",
            "store",
            "domain",
            "clock",
            "config",
            "crypto",
            "telemetry",
            "failpoint",
        ],
        never: WEB,
    },
    Room {
        name: "jobs",
        may: &[
            "delivery",
            "providers",
            "store",
            "domain",
            "clock",
            "config",
            "crypto",
            "telemetry",
            "failpoint",
        ],
        never: WEB,
    },
    Room {
        name: "schedules",
        may: &[
            NEW_JOB,
            FENCE,
            ENQUEUE,
            // The table makes the order of each schedule, which says its own queue.
            "jobs::queue::Payload",
            "domain::orders",
            "store::Db",
            "store::StoreError",
            "store::StoreResult",
            "store::schedules",
            "clock",
            "telemetry",
        ],
        never: WEB_AND_SQL,
    },
    Room {
        name: "bridge",
        may: &[
            NEW_JOB,
            FENCE,
            ENQUEUE,
            "delivery::deliver",
            "delivery::intake",
            "delivery::inbox",
            "providers::sqs",
            "store::Db",
            "domain",
            "clock",
            "config",
            "crypto",
            "telemetry",
            "failpoint",
        ],
        never: WEB_AND_SQL,
    },
    Room {
        name: "api",
        may: &[
            NEW_JOB,
            FENCE,
            ENQUEUE,
            "delivery::intake",
            "delivery::inbox",
            "delivery::resolve",
            // Start and pause are the same for every door; pausing waits for the begins under way.
            "delivery::campaigns",
            "delivery::contacts",
            // What a demo tenant begins with, when it is made here.
            "delivery::demo_seed",
            "delivery::imports",
            // What failed is sent anew in the request's own transaction, like the other switches of a campaign.
            "delivery::retries",
            // A sender is retired as a campaign is paused.
            "delivery::senders",
            // Members and those who run the platform invite alike.
            "delivery::invitations",
            "delivery::single",
            // The cell's row of a tenant follows the directory, whoever changed that.
            "delivery::tenants",
            // What operators see of queues and dead jobs.
            "jobs::queue::admin",
            "store",
            "live",
            "providers::*::verify",
            "domain",
            "clock",
            "config",
            "crypto",
            "telemetry",
            "failpoint",
        ],
        never: &["sqlx", "reqwest"],
    },
    // The workbench starts what the programs start; it never names a provider, so that a wrong client and a wrong fake
    // cannot agree.
    Room {
        name: "dev",
        // A demo tenant is made as any other: in the directory, and its cell follows.
        may: &[
            "domain",
            "store",
            "config",
            "clock",
            "jobs",
            "delivery::tenants",
        ],
        never: WEB,
    },
    // A server of its own on purpose: the wire format is declared once more, beside no provider.
    Room {
        name: "dev::fake_twilio",
        may: &["clock"],
        never: &["poem_openapi", "sqlx"],
    },
    Room {
        name: "cli",
        may: &["*"],
        never: &[],
    },
    // The program itself: it dispatches to a command.
    Room {
        name: "main",
        may: &["cli", "config", "telemetry"],
        never: WEB_AND_SQL,
    },
    // The list of modules.
    Room {
        name: "lib",
        may: &[],
        never: WEB_AND_SQL,
    },
];

/// What `domain` may name of crates that it may not use: the derives, and the trait that a test reads one by.
pub const DERIVES: &[&str] = &[
    "sqlx::Type",
    "poem_openapi::Enum",
    "poem_openapi::NewType",
    "poem_openapi::Object",
    "poem_openapi::types::ToJSON",
];

/// What only a room with SQL may call.
pub const SQL_MACROS: &[&str] = &[
    "query",
    "query_as",
    "query_scalar",
    "query_file",
    "query_file_as",
    "query_file_scalar",
    "query_unchecked",
    "query_as_unchecked",
    "query_scalar_unchecked",
    "query_file_unchecked",
    "query_file_as_unchecked",
    "query_file_scalar_unchecked",
];

/// The rooms with SQL; the bench measures the engine against the least that plain SQL could do.
pub const SQL_ROOMS: &[&str] = &["store", "jobs::queue", "dev::bench_queue"];

/// Words that only these rooms may say.
pub const RESERVED: &[(&str, &[&str])] = &[
    // Statements whose text is put together cannot be checked when compiling.
    ("AssertSqlSafe", SQL_ROOMS),
    ("raw_sql", SQL_ROOMS),
    ("QueryBuilder", &[]),
    // What runs between fork and exec.
    ("unsafe", &["dev::postgres"]),
];

/// Things outside that only these rooms may name.
pub const RESERVED_PATHS: &[(&str, &[&str])] = &[
    ("std::env::var", &["config"]),
    ("std::env::var_os", &["config"]),
    ("std::env::vars", &["config"]),
    ("std::env::vars_os", &["config"]),
    ("std::env::set_var", &[]),
    ("std::env::remove_var", &[]),
    // Where programs lie and where scratch files go: no setting of ours.
    ("std::env", &["config", "dev::postgres", "cli::bench"]),
    // Errors that say what to do next are typed; a command only prints them.
    ("anyhow", &["cli", "main"]),
];

//! How long an answer of the database may take.
//!
//! The server ends a statement after 15 seconds. Whose answer is still missing long after that reads from a connection that is
//! dead: its other end lost power, or something between the two forgot it, and nothing will ever say so.

use std::io;
use std::time::Duration;

/// Twice what a statement may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The answer to a statement, or to a short transaction of them. What is given up is tried again on another connection; the dead
/// one is closed on its way back to the pool.
///
/// # Errors
/// What the database says, and [`io::ErrorKind::TimedOut`] when it says nothing.
pub async fn answered<T, E: From<io::Error>>(
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    answered_within(ANSWER_MAX, question).await
}

/// The same for what cannot wait so long.
///
/// # Errors
/// As [`answered`].
pub async fn answered_within<T, E: From<io::Error>>(
    limit: Duration,
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match tokio::time::timeout(limit, question).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the database does not answer").into())
        }
    }
}

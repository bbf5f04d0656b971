use std::time::Duration;

/// Time limit of [`soon`]: long enough for a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits for a future that a test expects to complete soon.
///
/// # Panics
/// If the future takes longer than 30 s.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("within 30 s")
}

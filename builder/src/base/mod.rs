//! Types that every room uses: digests, keys, events, cancellation, limits. No I/O.

pub mod cancel;
pub mod causes;
pub mod digest;
pub mod events;
pub mod limits;
pub mod mode;
pub mod parallel;
pub mod sink;

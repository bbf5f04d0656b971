use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use protostub_egress::{Egress, Grants, Quota};

use crate::traffic::Traffic;

/// The way out for all connections of one stub.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) egress: Egress,
    pub(crate) quota: Quota,
    pub(crate) grants: Grants,
    pub(crate) traffic: Arc<Traffic>,
}

/// Resolves to the value that the host puts into the header `authorization` of a request, or to the
/// reason why the host has no value.
pub type Authorization = BoxFuture<'static, Result<HeaderValue, String>>;

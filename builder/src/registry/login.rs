//! Trying credentials out.

use reqwest::StatusCode;

use super::exchange::Call;
use super::{Inner, RegistryError};
use crate::image::reference::Reference;

/// What a registry said to credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginCheck {
    /// It asked for them and took them.
    Accepted,
    /// It did not ask for any.
    NotAsked,
}

impl Inner {
    /// Asks for the API's root (distribution spec, "Determining support"), which is what needs nothing but a login.
    pub(super) async fn check_login(&self, registry: &str) -> Result<LoginCheck, RegistryError> {
        let endpoint = self.endpoint(registry).await?;
        let reference =
            Reference { registry: registry.to_owned(), repository: String::new(), tag: None, digest: None };
        let url = endpoint.base.join("/v2/").map_err(|_| RegistryError::Host(registry.to_owned()))?;
        let call = Call { scopes: Vec::new(), ..Call::get(&endpoint, &reference, url) };
        let response = self.exchange(&call).await?;
        match response.status() {
            StatusCode::OK if self.known_authorization(&call).is_some() => Ok(LoginCheck::Accepted),
            StatusCode::OK => Ok(LoginCheck::NotAsked),
            _ => Err(self.refusal(&call, response).await),
        }
    }
}

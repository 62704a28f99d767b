//! A user's inbox, as a frontend asks for it.

use serde_json::Value;

use super::Service;

pub struct Inbox {
    client: reqwest::Client,
    base: String,
    user: String,
}

impl Inbox {
    pub fn of(service: &Service, user: &str) -> Self {
        Self { client: reqwest::Client::new(), base: format!("http://{}", service.address), user: user.to_owned() }
    }

    /// A request with the user's credential.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.base)).header(
            "authorization",
            reqwest::header::HeaderValue::from_bytes(format!("Bearer {}", self.user).as_bytes()).unwrap(),
        )
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.request("GET", path).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Wishes to mark as read.
    pub async fn post(&self, body: Value) -> (u16, Value) {
        let response = self.request("POST", "/api/notifications/read").json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Marks as read; how many are unread then.
    pub async fn read(&self, body: Value) -> u64 {
        let (status, answer) = self.post(body).await;
        assert_eq!(status, 200, "{answer}");
        answer["unread"].as_u64().unwrap()
    }

    /// How many are unread.
    pub async fn unread(&self) -> u64 {
        let (status, answer) = self.get("/api/notifications/unread-count").await;
        assert_eq!(status, 200, "{answer}");
        answer["unread"].as_u64().unwrap()
    }

    /// A page.
    pub async fn list(&self, query: &str) -> Value {
        let (status, answer) = self.get(&format!("/api/notifications?{query}")).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// The ids of all pages, to the end.
    pub async fn pages(&self, query: &str) -> Vec<Vec<String>> {
        let (mut pages, mut before) = (Vec::new(), String::new());
        loop {
            let page = self.list(&format!("{query}&before={before}")).await;
            let items = page["notifications"].as_array().unwrap();
            pages.push(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect());
            match page["next"].as_str() {
                Some(next) => before = next.to_owned(),
                None => return pages,
            }
        }
    }
}

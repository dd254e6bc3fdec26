//! The scene that most figures are taken in: a cluster, one group, members that stay, and a constant
//! load on every queue. It sets it up and takes it down; what happens in between is the bench's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringway_client::Client;

use crate::Outcome;
use crate::args::Args;
use crate::cluster::{Cluster, LOOK, PATIENCE, worker_id};
use crate::handed::{Handed, Log, Verdict, judge};
use crate::load::{Member, Published, Publisher};
use crate::report::{Bar, Report};

/// The group that is measured.
pub const GROUP: &str = "figures";
/// The class that goes to it.
pub const CLASS: &str = "figures.load";
/// What the members read.
pub const FILTER: &str = "figures.>";
/// Their subscription.
pub const SUBSCRIPTION: &str = "figures";
/// How long a set-up scene runs before anything is measured.
const WARM_UP: Duration = Duration::from_secs(3);

/// A cluster under load.
pub struct Scene {
    /// The processes.
    pub cluster: Cluster,
    /// What was handed out.
    pub log: Arc<Log>,
    /// For questions.
    pub client: Client,
    /// Members that stay.
    pub residents: Vec<Member>,
    /// The load.
    pub publisher: Publisher,
    queues: u32,
}

impl Scene {
    /// `--workers` workers, a group of `--queues` queues, `members` members in this process, and
    /// `--rate` messages per second; returns when all of it has run for a while.
    ///
    /// # Errors
    /// When anything does not come up.
    pub async fn set(args: &Args, members: u32) -> Outcome<Self> {
        let workers = args.number("workers") as usize;
        let cluster = Cluster::start(args.dir.as_deref(), workers).await?;
        let client = Client::connect(&cluster.url()).await?;
        Self::set_on(cluster, client, args, members, true).await
    }

    /// The same on a cluster that runs; the group is made unless it is there already.
    ///
    /// # Errors
    /// As [`Scene::set`].
    pub async fn set_on(
        cluster: Cluster,
        client: Client,
        args: &Args,
        members: u32,
        make_group: bool,
    ) -> Outcome<Self> {
        let workers = args.number("workers") as usize;
        let queues = args.number("queues") as u32;
        if make_group {
            make(&client, &cluster, queues, workers).await?;
        }
        let log = Arc::<Log>::default();
        let mut residents = Vec::new();
        for index in 0..members {
            residents.push(Member::join(&cluster.url(), &log, FILTER, SUBSCRIPTION, index).await?);
        }
        let publishing = Client::connect(&cluster.url()).await?;
        let rate = args.number("rate");
        let publisher = Publisher::start(publishing, log.clone(), GROUP, CLASS, rate)?;
        let scene = Self { cluster, log, client, residents, publisher, queues };
        scene.until_even(members).await?;
        tokio::time::sleep(WARM_UP).await;
        Ok(scene)
    }

    /// Waits until every right is held and no member has two more than another.
    ///
    /// # Errors
    /// When that takes longer than [`PATIENCE`].
    pub async fn until_even(&self, members: u32) -> Outcome<()> {
        let even = async {
            loop {
                let (_, seats, rights) = self.client.admin().subscription(SUBSCRIPTION).await?;
                let held = || seats.iter().map(|m| m.rights);
                let spread = held().max().unwrap_or(0) - held().min().unwrap_or(0);
                let granted = rights.iter().all(|r| r.state == "granted");
                if seats.len() == members as usize && granted && spread <= 1 {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(PATIENCE, even).await {
            Ok(done) => done,
            Err(_) => Err("the rights do not settle".into()),
        }
    }

    /// The queues of the group that a worker leads, by this client's routing.
    #[must_use]
    pub fn led_by(&self, worker: usize) -> Vec<u32> {
        let router = self.client.router();
        let Some(group) = router.group_by_name(GROUP) else { return Vec::new() };
        let id = worker_id(worker);
        let led = group.route().queues.iter().enumerate();
        let led = led.filter(|(_, q)| q.primary.as_ref().is_some_and(|p| p.as_str() == id));
        led.map(|(index, _)| index as u32).collect()
    }

    /// The queues of the group whose rights a member holds.
    ///
    /// # Errors
    /// When the coordinator does not answer.
    pub async fn held_by(&self, member: &str) -> Outcome<Vec<u32>> {
        let (_, _, rights) = self.client.admin().subscription(SUBSCRIPTION).await?;
        let of_member = rights.iter().filter(|r| {
            r.state == "granted" && r.member.as_ref().is_some_and(|m| m.as_str() == member)
        });
        // A subscription also reads the queues that its filter had before the group was bound.
        let index = |queue: &str| queue.strip_prefix(GROUP)?.strip_prefix('/')?.parse().ok();
        Ok(of_member.filter_map(|r| index(&r.queue)).collect())
    }

    /// Waits until each of `wanted` has had what `when` looks for in what was handed out since; gives
    /// the moment for each, and none for those that had nothing within `patience`.
    pub async fn first<K: Ord + Copy>(
        &self,
        wanted: &[K],
        since: Duration,
        patience: Duration,
        mut when: impl FnMut(&Handed) -> Option<K>,
    ) -> BTreeMap<K, Option<Duration>> {
        let mut found: BTreeMap<K, Option<Duration>> = wanted.iter().map(|k| (*k, None)).collect();
        let until = self.log.now() + patience;
        let mut looked = since;
        while found.values().any(Option::is_none) && self.log.now() < until {
            tokio::time::sleep(LOOK).await;
            // What is noted while we look may carry an older time than what is found already.
            let next = self.log.now().saturating_sub(LOOK * 5);
            for handed in self.log.since(looked) {
                if let Some(key) = when(&handed)
                    && let Some(first) = found.get_mut(&key)
                    && first.is_none_or(|at| handed.at < at)
                {
                    *first = Some(handed.at);
                }
            }
            looked = next.max(since);
        }
        found
    }

    /// How many queues the group has.
    #[must_use]
    pub fn queues(&self) -> u32 {
        self.queues
    }

    /// Stops the load, waits until all of it was handed out, and takes everything down.
    ///
    /// # Errors
    /// When a member or the publisher ended badly.
    pub async fn strike(self) -> Outcome<(Vec<Handed>, Published)> {
        let published = self.publisher.stop().await?;
        let until = self.log.now() + Duration::from_secs(5);
        while judge(&self.log.since(Duration::ZERO)).messages < published.answers.len() as u64
            && self.log.now() < until
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for member in self.residents {
            member.leave().await?;
        }
        self.client.close().await;
        Ok((self.log.since(Duration::ZERO), published))
    }
}

/// The group, its binding, and its queues spread over the workers.
///
/// # Errors
/// When the coordinator refuses.
pub async fn make(client: &Client, cluster: &Cluster, queues: u32, workers: usize) -> Outcome<()> {
    client.admin().group_create(GROUP, queues, None, None).await?;
    client.admin().bind(FILTER, GROUP).await?;
    cluster.settled(client, workers).await?;
    // The client hears of the new table by itself, a moment later.
    let known = async {
        while client.router().group_by_name(GROUP).is_none() {
            tokio::time::sleep(LOOK).await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, known).await?)
}

/// The rows that every run under load ends with: what must not have gone wrong meanwhile. Repeats are
/// allowed where a member was killed.
pub fn conclude(report: &mut Report, handed: &[Handed], published: &Published, repeats: Bar) {
    let Verdict { messages, repeats: again, out_of_order } = judge(handed);
    report.number("messages handed out", messages as f64, "", Bar::None);
    report.number("handed out again", again as f64, "", repeats);
    report.number("out of order within a key", out_of_order as f64, "", Bar::Most(0.0));
    report.number("publisher's errors", published.errors.len() as f64, "", Bar::Most(0.0));
    let lost = (published.answers.len() as u64).saturating_sub(messages);
    report.number("stored and not handed out in this process", lost as f64, "", Bar::None);
    published.errors.iter().take(3).for_each(|e| eprintln!("publisher: {e}"));
}

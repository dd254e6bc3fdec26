//! What an administrator asks and does: one typed call for each question of `proto::admin`, with
//! the plain data that the command line prints. It owns how an answer is read; the rules are the
//! coordinator's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ringway_proto::admin::{
    AdminRequest, AdminResponse, BindingInfo, ClusterStatus, Explanation, GroupInfo, GrowInfo,
    MemberInfo, PlanChange, PlanInfo, PlanSummary, QueueInfo, QueueLag, ReplayInfo, RightInfo,
    RouteInfo, SubscriptionInfo, WorkerInfo, WorkerRequest, WorkerResponse,
};
use ringway_proto::net::{Peer, RpcError};
use ringway_proto::refusal::spoken;
use ringway_proto::{
    Class, Code, Filter, GroupName, Refusal, SubscriptionId, SubscriptionName, WorkerId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};

use crate::client::Inner;
use crate::engine::Command;
use crate::error::AdminError;
use crate::options::WORKER_TIMEOUT;

/// The wait between two attempts to send a question.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// How long a bind waits for the classes to go where they are bound to.
const BIND_WAIT: Duration = Duration::from_secs(10);

/// What an administrator may ask and do. Every call waits for a coordinator as long as a connect
/// does.
///
/// # Cancellation
/// Unknown if dropped, for those calls that change something.
#[derive(Clone)]
pub struct Admin {
    client: Arc<Inner>,
}

/// How far a subscription is, at every queue that a worker answered for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Lag {
    /// The subscription.
    pub subscription: SubscriptionInfo,
    /// Its queues, by name.
    pub queues: Vec<QueueLag>,
    /// The workers that did not answer, so that their queues are missing.
    pub unanswered: Vec<WorkerId>,
}

impl Lag {
    /// Matching messages that are not acked, at the queues that are known.
    #[must_use]
    pub fn lag_messages(&self) -> u64 {
        self.queues.iter().map(|q| q.lag_messages).sum()
    }
}

macro_rules! answer {
    ($answer:expr, $pattern:pat => $value:expr) => {
        match $answer {
            $pattern => Ok($value),
            other => Err(AdminError::Refused(Refusal::new(
                Code::Protocol,
                format!("the coordinator answered another question: {}", name_of(&other)),
            ))),
        }
    };
}

impl Admin {
    pub(crate) fn new(client: &Arc<Inner>) -> Self {
        Self { client: client.clone() }
    }

    /// Makes a group; true when it is new, false when there was one alike.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn group_create(
        &self,
        name: &str,
        queues: u32,
        ring_weight: Option<u32>,
        max_body_bytes: Option<u32>,
    ) -> Result<(GroupInfo, bool), AdminError> {
        let name = group_name(name)?;
        let request = AdminRequest::GroupCreate { name, queues, ring_weight, max_body_bytes };
        answer!(
            self.ask(request).await?,
            AdminResponse::GroupCreated { group, created } => (group, created)
        )
    }

    /// All groups.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn groups(&self) -> Result<Vec<GroupInfo>, AdminError> {
        answer!(self.ask(AdminRequest::GroupList).await?, AdminResponse::Groups(groups) => groups)
    }

    /// One group with its queues.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn group(&self, name: &str) -> Result<(GroupInfo, Vec<QueueInfo>), AdminError> {
        let request = AdminRequest::GroupDescribe { name: group_name(name)? };
        answer!(
            self.ask(request).await?,
            AdminResponse::Group { group, queues, .. } => (group, queues)
        )
    }

    /// Gives a group more queues, `queues` in all; none when all of them take their share of the
    /// slots, else how far that is. Asked again, it only says so.
    ///
    /// # Errors
    /// [`AdminError`]: also for a group that has more queues already.
    pub async fn group_grow(
        &self,
        name: &str,
        queues: u32,
    ) -> Result<(GroupInfo, Option<GrowInfo>), AdminError> {
        let request = AdminRequest::GroupGrow { name: group_name(name)?, queues };
        answer!(
            self.ask(request).await?,
            AdminResponse::Growing { group, growing } => (group, growing)
        )
    }

    /// How far a group is that grows, if it does, and how many fences of subscriptions at its
    /// queues are not passed.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn group_growing(&self, name: &str) -> Result<(Option<GrowInfo>, u32), AdminError> {
        let request = AdminRequest::GroupDescribe { name: group_name(name)? };
        answer!(
            self.ask(request).await?,
            AdminResponse::Group { growing, fences, .. } => (growing, fences)
        )
    }

    /// Removes a group with its messages, or says what would go.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn group_delete(&self, name: &str, dry_run: bool) -> Result<GroupInfo, AdminError> {
        let request = AdminRequest::GroupDelete { name: group_name(name)?, dry_run };
        answer!(
            self.ask(request).await?,
            AdminResponse::GroupDeleted { group, .. } => group
        )
    }

    /// Sends the classes that match to a group; also says where they went by this filter before.
    /// Returns when they go there, which needs every worker that has queues of either group.
    ///
    /// # Errors
    /// [`AdminError`]; [`Code::Unavailable`] when that takes longer than ten seconds: they go there
    /// by themselves once all those workers are back.
    pub async fn bind(
        &self,
        filter: &str,
        group: &str,
    ) -> Result<(BindingInfo, Option<GroupName>), AdminError> {
        let filter = Filter::new(filter).map_err(AdminError::Invalid)?;
        let request = AdminRequest::Bind { filter, group: group_name(group)? };
        let mut first = None;
        let began = tokio::time::Instant::now();
        loop {
            let (binding, replaced, moving) = answer!(
                self.ask(request.clone()).await?,
                AdminResponse::Bound { binding, replaced, moving } => (binding, replaced, moving)
            )?;
            // Only the first answer says what the binding took the place of.
            let replaced = first.get_or_insert(replaced).clone();
            if !moving {
                return Ok((binding, replaced));
            }
            if began.elapsed() > BIND_WAIT {
                return Err(AdminError::Refused(
                    Refusal::new(
                        Code::Unavailable,
                        format!(
                            "'{}' is bound to {}, and its classes wait for a worker that does not \
                             answer",
                            binding.filter, binding.group
                        ),
                    )
                    .hint("they go there by themselves once all workers are back"),
                ));
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// All bindings, most specific first.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn bindings(&self) -> Result<Vec<BindingInfo>, AdminError> {
        let answer = self.ask(AdminRequest::BindingList).await?;
        answer!(answer, AdminResponse::Bindings(bindings) => bindings)
    }

    /// Which group a class goes to, and why.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn route(&self, class: &str) -> Result<RouteInfo, AdminError> {
        let class = Class::new(class).map_err(AdminError::Invalid)?;
        let answer = self.ask(AdminRequest::Route { class }).await?;
        answer!(answer, AdminResponse::Route(route) => route)
    }

    /// All subscriptions.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>, AdminError> {
        let answer = self.ask(AdminRequest::SubscriptionList).await?;
        answer!(answer, AdminResponse::Subscriptions(subscriptions) => subscriptions)
    }

    /// One subscription with its members and rights.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn subscription(
        &self,
        name: &str,
    ) -> Result<(SubscriptionInfo, Vec<MemberInfo>, Vec<RightInfo>), AdminError> {
        let name = SubscriptionName::new(name).map_err(AdminError::Invalid)?;
        let answer = self.ask(AdminRequest::SubscriptionDescribe { name }).await?;
        answer!(
            answer,
            AdminResponse::Subscription { subscription, members, rights } =>
                (subscription, members, rights)
        )
    }

    /// How far a subscription is: asks every worker that leads a queue.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn lag(&self, name: &str) -> Result<Lag, AdminError> {
        let (subscription, _, _) = self.subscription(name).await?;
        let router = self.client.routes.current();
        // A worker without queues knows of none, and may be gone for good.
        let queues = router.routing().groups.iter().flat_map(|group| &group.queues);
        let workers: BTreeSet<WorkerId> = queues.filter_map(|q| q.primary.clone()).collect();
        let asked: Vec<_> = workers
            .into_iter()
            .map(|worker| (worker.clone(), self.ask_worker(worker, subscription.id)))
            .collect();
        let (mut queues, mut unanswered) = (Vec::new(), Vec::new());
        for (worker, answer) in asked {
            match answer.await {
                Ok(Ok(WorkerResponse::Lag(lags))) => queues.extend(lags),
                _ => unanswered.push(worker),
            }
        }
        queues.sort_by_key(|q| router.parse_queue_name(&q.queue));
        Ok(Lag { subscription, queues, unanswered })
    }

    fn ask_worker(
        &self,
        worker: WorkerId,
        subscription: SubscriptionId,
    ) -> tokio::task::JoinHandle<Result<WorkerResponse, AdminError>> {
        let client = self.client.clone();
        self.client.runtime.spawn(async move {
            let (reply, peers) = oneshot::channel();
            let _ = client.commands.send(Command::Worker(worker, reply));
            let peers = peers.await.map_err(|_| AdminError::Closed)?;
            ask(peers, WorkerRequest::Lag { subscription }, WORKER_TIMEOUT).await
        })
    }

    /// The cluster as a whole.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn status(&self) -> Result<ClusterStatus, AdminError> {
        let answer = self.ask(AdminRequest::ClusterStatus).await?;
        answer!(answer, AdminResponse::Status(status) => status)
    }

    /// All workers.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>, AdminError> {
        let answer = self.ask(AdminRequest::ClusterWorkers).await?;
        answer!(answer, AdminResponse::Workers(workers) => workers)
    }

    /// The plan of queues as it stands, with what waits and why.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn plan(&self) -> Result<PlanInfo, AdminError> {
        answer!(self.ask(AdminRequest::Plan).await?, AdminResponse::Plan(plan) => plan)
    }

    /// Empties a worker, or takes that back: every queue of it moves to others. Once its state is
    /// `drained` it may be stopped for good.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn drain(&self, worker: &str, undo: bool) -> Result<WorkerInfo, AdminError> {
        let worker = worker_id(worker)?;
        let answer = self.ask(AdminRequest::Drain { worker, undo }).await?;
        answer!(answer, AdminResponse::Draining(worker) => worker)
    }

    /// What would move if a worker joined with this weight, or came with another one. Changes
    /// nothing.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn plan_join(&self, worker: &str, weight: u32) -> Result<PlanInfo, AdminError> {
        let change = PlanChange::Join { worker: worker_id(worker)?, weight };
        self.plan_if(change).await
    }

    /// What would move if a worker left. Changes nothing.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn plan_leave(&self, worker: &str) -> Result<PlanInfo, AdminError> {
        self.plan_if(PlanChange::Leave { worker: worker_id(worker)? }).await
    }

    async fn plan_if(&self, change: PlanChange) -> Result<PlanInfo, AdminError> {
        let answer = self.ask(AdminRequest::PlanIf { change }).await?;
        answer!(answer, AdminResponse::Plan(plan) => plan)
    }

    /// The newest plans that are kept, newest first; at most 1,000.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn plans(&self, limit: u32) -> Result<Vec<PlanSummary>, AdminError> {
        let answer = self.ask(AdminRequest::PlanList { limit }).await?;
        answer!(answer, AdminResponse::Plans(plans) => plans)
    }

    /// Computes kept plans anew from their inputs, from this number on or all, and compares.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn plan_replay(&self, from: Option<u64>) -> Result<ReplayInfo, AdminError> {
        let answer = self.ask(AdminRequest::PlanReplay { from }).await?;
        answer!(answer, AdminResponse::Replayed(found) => found)
    }

    /// Why a queue (`GROUP/N`) is where it is, or with a subscription, why that one's right to it
    /// is.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn explain(
        &self,
        queue: &str,
        subscription: Option<&str>,
    ) -> Result<Explanation, AdminError> {
        let subscription = subscription.map(SubscriptionName::new).transpose();
        let subscription = subscription.map_err(AdminError::Invalid)?;
        let queue = queue.to_owned();
        let answer = self.ask(AdminRequest::Explain { queue, subscription }).await?;
        answer!(answer, AdminResponse::Explanation(explanation) => explanation)
    }

    /// Any question, for those that have no call of their own.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn ask(&self, request: AdminRequest) -> Result<AdminResponse, AdminError> {
        let peers = self.client.coordinator.clone();
        let timeout = self.client.options.connect_timeout;
        let task = self.client.runtime.spawn(ask(peers, request, timeout));
        task.await.map_err(|_| AdminError::Closed)?
    }
}

fn group_name(name: &str) -> Result<GroupName, AdminError> {
    GroupName::new(name).map_err(AdminError::Invalid)
}

fn worker_id(id: &str) -> Result<WorkerId, AdminError> {
    WorkerId::new(id).map_err(AdminError::Invalid)
}

/// The variant's name: what else was in the answer does not matter.
fn name_of(answer: &AdminResponse) -> String {
    let text = format!("{answer:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

/// Asks once a connection is there; again only while nothing was sent.
async fn ask<Q: Serialize, A: DeserializeOwned>(
    mut peers: watch::Receiver<Option<Peer>>,
    question: Q,
    timeout: Duration,
) -> Result<A, AdminError> {
    let until = tokio::time::Instant::now() + timeout;
    let unavailable = |why: String| {
        let text = format!("nobody answered within {}: {why}", spoken(timeout));
        let hint = "start one with `ringway up`, or point RINGWAY_URL at a running cluster";
        AdminError::Unavailable(Refusal::new(Code::Unavailable, text).hint(hint))
    };
    loop {
        let peer = match tokio::time::timeout_at(until, peers.wait_for(Option::is_some)).await {
            Ok(Ok(peer)) => peer.clone(),
            Ok(Err(_)) => return Err(AdminError::Closed),
            Err(_) => return Err(unavailable("there is no connection".into())),
        };
        let Some(peer) = peer else { continue };
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        match peer.request(&question, left).await {
            Ok(answer) => return Ok(answer),
            Err(RpcError::Refused(refusal)) => return Err(refusal.into()),
            Err(RpcError::NotSent(e)) if left.is_zero() => return Err(unavailable(e.to_string())),
            Err(RpcError::NotSent(_)) => tokio::time::sleep(RETRY_AFTER).await,
            Err(e) => return Err(AdminError::Unknown { cause: e.to_string() }),
        }
    }
}

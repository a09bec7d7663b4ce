//! Every crash that is possible: the real moves against a model of the API server in which the process may end before,
//! in or after any request, requests of the dead may arrive late, and the pod changes and ends when it likes.
//!
//! All scripts of such events are run, by counting through them: each question that a run asks has a number of answers.

use futures::FutureExt;
use parking_lot::Mutex;
use serde_json::json;
use tensile_core::names;

use super::*;

/// Deaths and other events in one run.
const TROUBLES: usize = 4;
/// Passes within which everything must be settled once nothing happens any more.
const PASSES: usize = 6;

/// Answers to the questions of a run, counted through.
#[derive(Default)]
struct Script {
    /// The answer, and how many there are.
    answers: Vec<(usize, usize)>,
    asked: usize,
}

#[derive(Clone, Debug)]
enum Request {
    Write(Record),
    Evict(Record),
    Create(Record),
    Forget(Record),
}

/// The pod that has the name.
#[derive(Clone)]
struct There {
    uid: usize,
    version: usize,
    deleting: bool,
    made_from: Option<String>,
}

#[derive(Default)]
struct Model {
    script: Script,
    pod: Option<There>,
    record: Option<Record>,
    /// Requests of processes that are dead.
    late: Vec<Request>,
    versions: usize,
    ended: usize,
    made: usize,
    troubles: usize,
    log: Vec<&'static str>,
}

/// When a process dies: before, in or after a request.
#[derive(Clone, Copy)]
enum Death {
    Before,
    After,
    /// The request arrives when it likes.
    In,
}

const DEATHS: [Death; 3] = [Death::Before, Death::After, Death::In];

struct Sweep(Mutex<Model>);

// === impl Script ===

impl Script {
    fn ask(&mut self, answers: usize) -> usize {
        if self.asked == self.answers.len() {
            self.answers.push((0, answers));
        }
        self.asked += 1;
        self.answers[self.asked - 1].0
    }

    /// The next script; `None` after the last.
    fn next(mut self) -> Option<Self> {
        self.asked = 0;
        while let Some((answer, answers)) = self.answers.pop() {
            if answer + 1 < answers {
                self.answers.push((answer + 1, answers));
                return Some(self);
            }
        }
        None
    }
}

// === impl Model ===

impl Model {
    fn version(&mut self) -> usize {
        self.versions += 1;
        self.versions
    }

    fn note(&mut self, what: &'static str) {
        self.log.push(what);
        let is_whole = self.pod.as_ref().is_some_and(|pod| !pod.deleting);
        assert!(
            is_whole || self.record.is_some(),
            "the pod would be lost: {:#?}",
            self.log
        );
        assert!(self.made <= self.ended, "the pod was made twice: {:#?}", self.log);
    }

    fn json(&self) -> Option<Value> {
        let pod = self.pod.as_ref()?;
        let mut annotations = json!({});
        if let Some(from) = &pod.made_from {
            annotations[names::MOVED_FROM] = json!(from);
        }
        let (deleted, conditions) = if pod.deleting {
            (
                json!("2026-01-01T00:00:00Z"),
                json!([{"type": "DisruptionTarget", "reason": "EvictionByEvictionAPI"}]),
            )
        } else {
            (Value::Null, json!([]))
        };
        Some(json!({
            "metadata": {
                "namespace": "ns", "name": "p", "uid": pod.uid.to_string(), "resourceVersion": pod.version.to_string(),
                "annotations": annotations, "deletionTimestamp": deleted
            },
            "spec": {}, "status": {"conditions": conditions}
        }))
    }

    /// Lets a request take effect. An error is what a server says without having done anything.
    fn apply(&mut self, request: &Request) -> Result<Written, u16> {
        let nothing = Written {
            version: None,
            is_first: false,
        };
        let done = match request {
            Request::Write(record) => {
                let written = Written {
                    version: Some(self.version().to_string()),
                    is_first: self.record.is_none(),
                };
                self.record = Some(Record {
                    stored: written.version.clone(),
                    ..record.clone()
                });
                Ok(written)
            }
            Request::Evict(record) => {
                let version = self.version();
                match &mut self.pod {
                    Some(pod) if pod.uid.to_string() != record.uid => Err(409),
                    Some(pod) if pod.version.to_string() != record.resource_version => Err(409),
                    Some(pod) => {
                        (pod.deleting, pod.version) = (true, version);
                        Ok(nothing)
                    }
                    None => Err(404),
                }
            }
            Request::Create(_) if self.pod.is_some() => Err(409),
            Request::Create(record) => {
                let (uid, version) = (self.version(), self.version());
                self.made += 1;
                self.pod = Some(There {
                    uid,
                    version,
                    deleting: false,
                    made_from: record.pod["metadata"]["annotations"][names::MOVED_FROM]
                        .as_str()
                        .map(str::to_owned),
                });
                Ok(nothing)
            }
            Request::Forget(record) => match &self.record {
                None => Ok(nothing),
                Some(stored) if stored.stored != record.stored => Err(409),
                Some(_) => {
                    self.record = None;
                    Ok(nothing)
                }
            },
        };
        self.note(match (request, done.is_ok()) {
            (Request::Write(_), _) => "recorded",
            (Request::Evict(_), true) => "evicted",
            (Request::Evict(_), false) => "not evicted",
            (Request::Create(_), true) => "made",
            (Request::Create(_), false) => "not made",
            (Request::Forget(_), true) => "forgotten",
            (Request::Forget(_), false) => "not forgotten",
        });
        done
    }

    /// Something that nobody asked for, perhaps; or the process dies in one of so many ways.
    fn trouble(&mut self, deaths: &[Death]) -> Option<Death> {
        if self.troubles == TROUBLES {
            return None;
        }
        let is_going = self.pod.as_ref().is_some_and(|pod| pod.deleting);
        let (end, late) = (usize::from(is_going), self.late.len());
        let trouble = self.script.ask(2 + end + late + deaths.len()).checked_sub(1)?;
        self.troubles += 1;
        match trouble {
            0 => self.change(),
            1 if is_going => self.end_pod(),
            trouble if trouble <= end + late => {
                let request = self.late.remove(trouble - 1 - end);
                self.log.push("late:");
                let _refused = self.apply(&request);
            }
            trouble => {
                self.log.push("dies");
                return Some(deaths[trouble - 1 - end - late]);
            }
        }
        None
    }

    fn change(&mut self) {
        let version = self.version();
        if let Some(pod) = &mut self.pod {
            pod.version = version;
        }
        self.log.push("the pod changes");
    }

    fn end_pod(&mut self) {
        self.ended += 1;
        self.pod = None;
        self.note("the pod ends");
    }
}

// === impl Sweep ===

impl Sweep {
    /// A request of a process that may die: then there is never an answer.
    async fn send(&self, request: Request) -> Result<Written, u16> {
        let answer = {
            let mut model = self.0.lock();
            match model.trouble(&DEATHS) {
                None => Some(model.apply(&request)),
                Some(death) => {
                    match death {
                        Death::Before => {}
                        Death::After => drop(model.apply(&request)),
                        Death::In => model.late.push(request),
                    }
                    None
                }
            }
        };
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn read<T>(&self, read: impl FnOnce(&Model) -> T) -> T {
        let found = {
            let mut model = self.0.lock();
            let death = model.trouble(&DEATHS[..1]);
            death.is_none().then(|| read(&model))
        };
        match found {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    /// One life of the process: it takes up what it finds, and then moves the pod. Says whether it died.
    fn live(&self) -> bool {
        let mut moving = Moving::default();
        let life = async {
            let _open = settle(self, &mut moving).await;
            let uid = self.0.lock().pod.as_ref().map(|pod| pod.uid.to_string());
            if let Some(uid) = uid {
                let pod = PodRef {
                    namespace: "ns".to_owned(),
                    name: "p".to_owned(),
                    uid,
                };
                let _outcome = evict(self, &pod).await;
            }
        };
        life.now_or_never().is_none()
    }

    /// Nothing happens any more but what must: what is late arrives, what goes ends, and old requests are given up.
    fn end(&self) {
        {
            let mut model = self.0.lock();
            model.troubles = TROUBLES;
            for request in std::mem::take(&mut model.late) {
                let _refused = model.apply(&request);
            }
        }
        let mut moving = Moving::default();
        for _ in 0..PASSES {
            {
                let mut model = self.0.lock();
                if model.pod.as_ref().is_some_and(|pod| pod.deleting) {
                    model.end_pod();
                }
                let recorded = model
                    .record
                    .iter()
                    .map(|record| (record.uid.clone(), Instant::now()));
                moving.0.extend(recorded);
            }
            settle(self, &mut moving).now_or_never().unwrap().unwrap();
        }
        let mut model = self.0.lock();
        model.note("the end");
        assert_eq!(model.record, None, "a record is left: {:#?}", model.log);
    }
}

impl Server for Sweep {
    async fn pod(&self, _: &str, _: &str) -> kube::Result<Option<Value>> {
        Ok(self.read(Model::json).await)
    }

    async fn records(&self) -> kube::Result<Vec<Record>> {
        Ok(self.read(|model| model.record.iter().cloned().collect()).await)
    }

    async fn write(&self, record: &Record) -> kube::Result<Written> {
        self.send(Request::Write(record.clone())).await.map_err(error)
    }

    async fn forget(&self, record: &Record) -> kube::Result<()> {
        let sent = self.send(Request::Forget(record.clone())).await;
        sent.map(drop).map_err(error)
    }

    async fn evict(&self, record: &Record) -> Outcome {
        match self.send(Request::Evict(record.clone())).await {
            Ok(_) => Outcome::Evicted,
            Err(409) => Outcome::Changed,
            Err(_) => Outcome::Gone,
        }
    }

    async fn create(&self, record: &Record) -> kube::Result<()> {
        let sent = self.send(Request::Create(record.clone())).await;
        sent.map(drop).map_err(error)
    }
}

fn error(code: u16) -> kube::Error {
    let status = kube::core::Status {
        code,
        ..kube::core::Status::failure("no", "no")
    };
    kube::Error::Api(status.boxed())
}

#[test]
fn wherever_it_dies_the_pod_is_neither_lost_nor_made_twice() {
    let (mut script, mut runs, mut moved) = (Some(Script::default()), 0, 0);
    while let Some(current) = script {
        let pod = There {
            uid: 0,
            version: 0,
            deleting: false,
            made_from: None,
        };
        let sweep = Sweep(Mutex::new(Model {
            script: current,
            pod: Some(pod),
            ..Model::default()
        }));
        while sweep.live() {}
        sweep.end();
        let model = sweep.0.into_inner();
        runs += 1;
        moved += usize::from(model.made > 0);
        script = model.script.next();
    }
    assert!(runs > 10_000, "{runs} runs");
    assert!(moved > 1_000, "the pod was moved in {moved} of {runs}");
}

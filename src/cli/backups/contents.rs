//! What one pass over a backup tells.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context as _;

use crate::backup::{self, Encryption, Entry, Facts, Limits, ReadError, ResourceSet, Summary};
use crate::object::owner::OwnerId;
use crate::object::{Interner, ObjectKey, summarise};
use crate::store::Spool;

/// A whole backup, summed up.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub facts: Facts,
    /// Objects by `plural.group#version`.
    pub counts: BTreeMap<String, u64>,
    /// Objects that are closed to us, by provider.
    pub encrypted: BTreeMap<String, u64>,
    /// The first of them, and why.
    pub unopened: Option<String>,
    /// Objects that were encrypted and that our key has opened.
    pub opened: u64,
    pub filters: Option<ResourceSet>,
    pub summary: Summary,
    /// Owners that no object of the backup is, and one of their dependents.
    pub missing_owners: BTreeMap<String, ObjectKey>,
    /// Types of custom resources whose definition is not in the backup.
    pub undefined: BTreeSet<String>,
    /// Objects whose metadata is not as Kubernetes has it.
    pub unfit: Vec<String>,
}

impl Contents {
    pub fn objects(&self) -> u64 {
        self.summary.objects + self.summary.encrypted
    }

    /// `secretbox`, `opened` or `no`; several providers where entries differ.
    pub fn encryption(&self) -> String {
        match self.encrypted.is_empty() {
            true if self.opened > 0 => "opened".to_owned(),
            true => "no".to_owned(),
            false => self.encrypted.keys().cloned().collect::<Vec<_>>().join(", "),
        }
    }
}

/// Reads a backup from its first byte to its last.
///
/// # Errors
///
/// When it is not whole, with the entry.
pub(super) async fn read(spool: Spool, encryption: Option<Arc<Encryption>>) -> anyhow::Result<(Contents, Spool)> {
    crate::git::blocking(move || {
        let mut gathered = Gathered::default();
        let mut take = |entry| {
            gathered.take(entry);
            Ok::<(), Infallible>(())
        };
        let summary =
            match backup::read(spool.reader(), spool.size(), &Limits::default(), encryption.as_deref(), &mut take) {
                Ok(summary) => summary,
                Err(ReadError::Corrupt(error)) => return Err(error.into()),
                Err(ReadError::Source(error)) => return Err(error).context("cannot read the fetched backup again"),
                Err(ReadError::Visit(never)) => match never {},
            };
        Ok((gathered.into_contents(summary), spool))
    })
    .await
}

/// Most owners, types and objects that are named.
const NAMED: usize = 1000;

#[derive(Default)]
struct Gathered {
    contents: Contents,
    interner: Interner,
    present: BTreeSet<OwnerId>,
    wanted: BTreeMap<OwnerId, ObjectKey>,
    /// Group and plural of what CRDs define, and of what objects are of.
    defined: BTreeSet<(String, String)>,
    used: BTreeSet<(String, String)>,
}

impl Gathered {
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Filters(filters) => self.contents.filters = Some(filters),
            Entry::Encrypted { key, provider, problem } => {
                self.count(&key);
                self.contents.unopened.get_or_insert_with(|| format!("{key}: {problem}"));
                *self.contents.encrypted.entry(provider).or_default() += 1;
            }
            Entry::Object { key, value, encrypted } => {
                self.count(&key);
                self.contents.opened += u64::from(encrypted);
                self.contents.facts.note(&key, &value);
                match summarise(&key.resource, value, &mut self.interner) {
                    Ok(summary) => {
                        if let Some(crd) = &summary.particulars().crd {
                            self.defined.insert((crd.group.clone(), crd.plural.clone()));
                        }
                        for owner in summary.owners.iter() {
                            for id in owner.candidates(key.namespace.as_ref()).take(1) {
                                self.wanted.entry(id).or_insert_with(|| key.clone());
                            }
                        }
                        self.present.insert(OwnerId::of(&key, &summary.kind));
                    }
                    Err(problem) if self.contents.unfit.len() < NAMED => {
                        self.contents.unfit.push(format!("{key}: {problem}"));
                    }
                    Err(_) => {}
                }
            }
        }
    }

    fn count(&mut self, key: &ObjectKey) {
        *self.contents.counts.entry(key.resource.to_string()).or_default() += 1;
        let of = (key.resource.group.clone(), key.resource.plural.clone());
        if !self.used.contains(&of) {
            self.used.insert(of);
        }
    }

    fn into_contents(mut self, summary: Summary) -> Contents {
        let cluster_scoped = |id: &OwnerId| OwnerId { namespace: None, ..id.clone() };
        let is_there = |id: &OwnerId| self.present.contains(id) || self.present.contains(&cluster_scoped(id));
        let missing = self.wanted.iter().filter(|(id, _)| !is_there(id));
        let named = |id: &OwnerId| {
            let namespace = id.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
            format!("{} {namespace}{}", id.kind, id.name)
        };
        self.contents.missing_owners = missing.take(NAMED).map(|(id, of)| (named(id), of.clone())).collect();
        // Of an encrypted backup it is not known which types its CRDs define.
        if summary.encrypted == 0 {
            let undefined = self.used.difference(&self.defined).filter(|(group, _)| is_custom(group));
            self.contents.undefined = undefined.map(|(group, plural)| format!("{plural}.{group}")).collect();
        }
        self.contents.summary = summary;
        self.contents
    }
}

/// Groups without a dot are Kubernetes' own, and those of `k8s.io`; `x-k8s.io` is for everybody (KEP-1111).
fn is_custom(group: &str) -> bool {
    group.contains('.') && (!group.ends_with(".k8s.io") || group.ends_with(".x-k8s.io"))
}

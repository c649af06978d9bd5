//! Several changes at once.

use std::{cell::Cell, slice};

use serde::Serialize;
use thiserror::Error;

use super::Byway;
use crate::{
    config::Attach,
    error::{self, Error},
    kernel::snapshot::Scope,
    model::{Device, Group, GroupSpec, NextHop, NextHopSpec, Rule, RuleSpec, Selector},
    policy::{
        request::{OnConflict, Request},
        snapshot::Questions,
        transaction::Transaction,
    },
};

/// One change of several ([`Byway::edit`]).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Edit {
    /// As [`Byway::add`].
    Add(RuleSpec),
    /// As [`Byway::replace`].
    Replace(RuleSpec),
    /// As [`Byway::del`].
    Del(Selector),
    /// As [`Byway::flush`].
    Flush,
    /// As [`Byway::add_group`].
    AddGroup(GroupSpec),
    /// As [`Byway::replace_group`].
    ReplaceGroup(GroupSpec),
    /// As [`Byway::del_group`].
    DelGroup(String),
    /// As [`Byway::take_out_of_service`].
    TakeOutOfService(NextHopSpec),
    /// As [`Byway::put_in_service`].
    PutInService(NextHopSpec),
    /// As [`Byway::attach`].
    Attach(Attach),
    /// As [`Byway::detach`].
    Detach(Vec<String>),
    /// As [`Byway::detach_all`].
    DetachAll,
}

/// What an [`Edit`] returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Edited {
    /// The rule that was added, replaced or deleted.
    Rule(Rule),
    /// All rules that were deleted.
    Rules(Vec<Rule>),
    /// The group that was added, replaced or deleted.
    Group(Group),
    /// The next hop that was taken out of service or put back.
    NextHop(NextHop),
    /// The devices that were attached to or detached from.
    Devices(Vec<Device>),
}

/// Why several changes were not made. Nothing has changed then, as for any [`enum@Error`].
#[derive(Debug, Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct EditError {
    /// The first change that was refused, from 0. `None` if all of them together cannot be had, or the kernel failed.
    pub nth: Option<usize>,
    /// Why.
    pub error: Error,
}

impl Byway {
    /// Makes several changes in the given order, all in the same instant, or none if one is refused. If a rule is among them,
    /// none is about attachments, and nothing is attached, it also attaches to the default-gateway devices.
    ///
    /// # Errors
    ///
    /// Those of the single changes, and which of them it was.
    pub fn edit(&mut self, edits: &[Edit]) -> Result<Vec<Edited>, EditError> {
        for (at, edit) in edits.iter().enumerate() {
            edit.check().map_err(|error| EditError { nth: Some(at), error })?;
        }
        let puts_rules = edits.iter().any(|edit| matches!(edit, Edit::Add(_) | Edit::Replace(_)));
        let is_of_attachments =
            |edit: &Edit| matches!(edit, Edit::Attach(_) | Edit::Detach(_) | Edit::DetachAll);
        let may_attach = puts_rules && !edits.iter().any(is_of_attachments);
        let nth = Cell::new(None);
        let edited = self.change(&Scope::all(questions(edits)), |transaction| {
            let mut edited = Vec::with_capacity(edits.len());
            for (at, edit) in edits.iter().enumerate() {
                nth.set(Some(at));
                edited.push(edit.make(transaction)?);
            }
            nth.set(None);
            if may_attach {
                transaction.attach_unless_attached()?;
            }
            Ok(edited)
        });
        edited.map_err(|error| EditError { nth: nth.get(), error })
    }
}

impl Edit {
    /// Checks what can be checked without the kernel.
    fn check(&self) -> error::Result<()> {
        match self {
            Self::Add(spec) | Self::Replace(spec) => Ok(spec.check()?),
            Self::AddGroup(spec) | Self::ReplaceGroup(spec) => Ok(spec.check()?),
            _ => Ok(()),
        }
    }

    fn make(&self, transaction: &mut Transaction) -> error::Result<Edited> {
        let mut put = |spec: &RuleSpec, on_conflict| {
            let request = Request::of_specs(slice::from_ref(spec));
            let actions = transaction.put_rules(&request, on_conflict)?;
            super::only(request.rules(&actions)).map(Edited::Rule)
        };
        match self {
            Self::Add(spec) => put(spec, OnConflict::Refuse),
            Self::Replace(spec) => put(spec, OnConflict::Replace),
            Self::Del(selector) => transaction.delete_rule(selector).map(Edited::Rule),
            Self::Flush => Ok(Edited::Rules(transaction.flush(|_, _| true))),
            Self::AddGroup(spec) => transaction.put_group(spec, OnConflict::Refuse).map(Edited::Group),
            Self::ReplaceGroup(spec) => transaction.put_group(spec, OnConflict::Replace).map(Edited::Group),
            Self::DelGroup(name) => transaction.delete_group(name).map(Edited::Group),
            Self::TakeOutOfService(spec) => transaction.set_down(spec, true).map(Edited::NextHop),
            Self::PutInService(spec) => transaction.set_down(spec, false).map(Edited::NextHop),
            Self::Attach(attach) => transaction.attach(attach).map(Edited::Devices),
            Self::Detach(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                transaction.detach(&names).map(Edited::Devices)
            }
            Self::DetachAll => Ok(Edited::Devices(transaction.detach_all())),
        }
    }
}

/// What the changes ask the network stack.
fn questions(edits: &[Edit]) -> Questions {
    let targets = edits.iter().filter_map(|edit| match edit {
        Edit::Add(spec) | Edit::Replace(spec) => Some(&spec.target),
        _ => None,
    });
    let mut questions = Questions::targets(targets);
    for edit in edits {
        match edit {
            Edit::AddGroup(spec) | Edit::ReplaceGroup(spec) => questions.add_members(&spec.members),
            Edit::Attach(Attach::Auto) => questions.default_routes = true,
            _ => {}
        }
    }
    questions
}

//! Changes of the rules, the groups and the next hops, made to Byway and to the model alike.

use byway::{Group, NextHop, Rule, RuleSpec, Selector, Target};

use super::{Comparison, world};

impl Comparison {
    /// Other rules, in one of the ways to come there.
    pub(crate) fn new_rules(&mut self) {
        self.history.clear();
        self.world.turn(&mut self.random);
        let count =
            if self.random.percent(25) { self.random.between(1, 4) } else { self.random.between(5, 60) };
        let rules = self.world.rules(&mut self.random, count);
        match self.random.below(4) {
            0 => {
                self.flush();
                self.put(&rules);
            }
            1 => {
                self.put(&rules);
                let gone = self.rules().into_iter().filter(|rule| !rules.contains(rule));
                let gone: Vec<Selector> = gone.map(|rule| rule.selector()).collect();
                for selector in gone {
                    self.delete(&selector);
                }
            }
            2 => {
                // One by one, from the most specific to the least.
                let mut old = self.rules();
                old.reverse();
                for rule in old {
                    self.delete(&rule.selector());
                }
                for rule in &rules {
                    self.put(std::slice::from_ref(rule));
                }
            }
            _ => {
                // On top of those that are there, as far as it stays readable.
                let mut old = self.rules();
                self.random.shuffle(&mut old);
                for rule in old.iter().skip(20) {
                    self.delete(&rule.selector());
                }
                self.put(&rules);
            }
        }
        let rules = self.rules();
        self.traffic.turn(&mut self.random, &self.world, &rules);
    }

    /// Changes some rules where they are: others go, come back the same, or get another target.
    pub(crate) fn edit(&mut self) {
        let mut rules = self.rules();
        self.random.shuffle(&mut rules);
        let (deleted, kept) = rules.split_at(rules.len() / 4);
        for rule in deleted {
            self.delete(&rule.selector());
        }
        let mut put: Vec<Rule> = Vec::new();
        for (nth, rule) in kept.iter().enumerate() {
            match nth % 3 {
                0 => put.push(rule.clone()),
                1 => {
                    let other = self.world.rule(&mut self.random, rule.selector());
                    put.push(other);
                }
                _ if nth % 6 == 5 && !matches!(rule.target, Target::Pass | Target::Drop) => {
                    let mut clamped = rule.clone();
                    clamped.mss = world::mss(&mut self.random);
                    put.push(clamped);
                }
                _ => {}
            }
        }
        let count = self.random.below(8);
        let new = self.world.rules(&mut self.random, count);
        let is_new = |rule: &Rule| put.iter().all(|other| other.selector() != rule.selector());
        let new: Vec<Rule> = new.into_iter().filter(is_new).collect();
        put.extend(new);
        self.put(&put);
    }

    pub(crate) fn toggle_next_hops(&mut self) {
        if self.random.percent(30) {
            return self.take_down();
        }
        let mut next_hops: Vec<(NextHop, bool)> =
            self.model.next_hops().map(|(next_hop, is_down)| (next_hop.clone(), is_down)).collect();
        self.random.shuffle(&mut next_hops);
        let most = if self.random.percent(10) { next_hops.len() } else { next_hops.len().min(5) };
        next_hops.truncate(self.random.between(most.min(1), most));
        for (next_hop, is_down) in next_hops {
            self.set_down(&next_hop, !is_down);
        }
    }

    /// Takes all next hops of a group out of service, or all but the last.
    fn take_down(&mut self) {
        let groups: Vec<Group> = self.model.groups().cloned().collect();
        let group = self.random.pick(&groups);
        let (last, others) = group.members.split_last().unwrap();
        for member in others {
            self.set_down(&member.next_hop, true);
        }
        let is_down = self.random.percent(50);
        self.set_down(&last.next_hop, is_down);
    }

    pub(crate) fn all_up(&mut self) {
        let down: Vec<NextHop> = self
            .model
            .next_hops()
            .filter(|(_, is_down)| *is_down)
            .map(|(next_hop, _)| next_hop.clone())
            .collect();
        for next_hop in down {
            self.set_down(&next_hop, false);
        }
    }

    fn put(&mut self, rules: &[Rule]) {
        let specs: Vec<RuleSpec> = rules.iter().map(|rule| RuleSpec::try_from(rule).unwrap()).collect();
        let texts: Vec<String> = rules.iter().map(Rule::to_string).collect();
        self.history.push(format!("replace {}", texts.join("; ")));
        let put = self.byway.replace_all(&specs).unwrap_or_else(|error| self.fail(&error.to_string()));
        let mut in_order = rules.to_vec();
        in_order.sort_by_key(Rule::selector);
        assert_eq!(put, in_order);
        rules.iter().for_each(|rule| self.model.put(rule));
        self.settle();
    }

    fn delete(&mut self, selector: &Selector) {
        self.history.push(format!("del {selector}"));
        self.byway.del(selector).unwrap_or_else(|error| self.fail(&error.to_string()));
        self.model.delete(selector);
        self.settle();
    }

    fn flush(&mut self) {
        self.history.push("flush".to_owned());
        self.byway.flush().unwrap_or_else(|error| self.fail(&error.to_string()));
        self.model.flush();
        self.settle();
    }

    pub(crate) fn put_group(&mut self, name: &str, for_v4: bool) {
        let group = self.world.group(&mut self.random, name, for_v4);
        self.history.push(format!("group replace {group}"));
        let put =
            self.byway.replace_group(&(&group).into()).unwrap_or_else(|error| self.fail(&error.to_string()));
        assert_eq!(put, group);
        self.model.put_group(&group);
        self.settle();
    }

    fn set_down(&mut self, next_hop: &NextHop, is_down: bool) {
        self.history.push(format!("nexthop {next_hop} {}", if is_down { "down" } else { "up" }));
        let spec = next_hop.into();
        let said =
            if is_down { self.byway.take_out_of_service(&spec) } else { self.byway.put_in_service(&spec) };
        said.unwrap_or_else(|error| self.fail(&error.to_string()));
        self.model.set_down(next_hop, is_down);
        self.settle();
    }

    fn settle(&mut self) {
        self.changes += 1;
        self.traffic.forget_fragments();
        self.model.settle(|flow| self.traffic.is_pooled(flow));
        self.program.read_names().unwrap_or_else(|difference| self.fail(&difference));
        let (rules, next_hops) = (self.model.rules().count(), self.model.next_hops().count());
        if (self.program.rule_count(), self.program.next_hop_count()) != (rules, next_hops) {
            self.fail(&format!(
                "{rules} rules and {next_hops} next hops should be there, and there are {} and {}",
                self.program.rule_count(),
                self.program.next_hop_count()
            ));
        }
    }
}

//! Classes (what a message is about) and filters (which classes someone wants): how they are
//! written, which matches which, and which of two filters is the more specific.
//!
//! A [`Class`] or [`Filter`] that exists is legal; nothing is checked twice. This file does not
//! know what a filter is used for, be it a subscription, a binding or a rule of access.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_TOKEN_LEN, MAX_TOKENS};
use crate::refusal::{Code, Refusal, shorten};

/// What a message is about: 1 to 32 tokens of `[A-Za-z0-9_-]{1,64}`, separated by dots. A copy is
/// cheap: it shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Class(Arc<str>);

/// Which classes someone wants: like a class, with `*` for any one token and a final `>` for one
/// or more. A copy is cheap: it shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Filter(Arc<str>);

impl Class {
    /// Checks `s` and takes it as a class.
    ///
    /// # Errors
    /// [`Code::InvalidClass`] with the first token that is wrong.
    pub fn new(s: &str) -> Result<Self, Refusal> {
        Self::check(s)?;
        Ok(Self(s.into()))
    }

    /// Whether `s` would be a class, without making one.
    ///
    /// # Errors
    /// As [`Class::new`].
    pub fn check(s: &str) -> Result<(), Refusal> {
        check_tokens(s, |_, token| check_token(token, "which only a filter may have")).map_err(
            |why| {
                Refusal::new(Code::InvalidClass, format!("{:?} is no class: {why}", shorten(s)))
                    .hint(
                        "a class is 1 to 32 tokens of letters, digits, _ and -, separated by \
                         dots, such as orders.new",
                    )
            },
        )
    }

    /// The first token, by which the class ring chooses a group.
    #[must_use]
    pub fn family(&self) -> &str {
        family_of(&self.0)
    }
}

/// The first token of a class.
#[must_use]
pub fn family_of(class: &str) -> &str {
    split_token(class).0
}

/// The first token and what follows its dot. A loop over bytes, because tokens are short and
/// `str::split` takes several times as long to begin with each.
pub(crate) fn split_token(s: &str) -> (&str, Option<&str>) {
    match s.bytes().position(|b| b == b'.') {
        Some(dot) => (&s[..dot], Some(&s[dot + 1..])),
        None => (s, None),
    }
}

impl Filter {
    /// Checks `s` and takes it as a filter.
    ///
    /// # Errors
    /// [`Code::InvalidFilter`] with the first token that is wrong.
    pub fn new(s: &str) -> Result<Self, Refusal> {
        let last = s.split('.').count();
        check_tokens(s, |n, token| match token {
            "*" => Ok(()),
            ">" if n == last => Ok(()),
            ">" => Err("is > but not the last".to_owned()),
            _ => check_token(token, "which has to be a token of its own"),
        })
        .map_err(|why| {
            Refusal::new(Code::InvalidFilter, format!("{:?} is no filter: {why}", shorten(s))).hint(
                "a filter is a class in which * stands for one token and a final > for one or \
                 more, such as orders.*.eu or orders.>",
            )
        })?;
        Ok(Self(s.into()))
    }

    /// The first token, unless it is a wildcard: then any family may match.
    #[must_use]
    pub fn family(&self) -> Option<&str> {
        Some(family_of(&self.0)).filter(|f| !matches!(*f, "*" | ">"))
    }

    /// Whether `class` is one of the wanted ones. One pass, no allocation.
    #[must_use]
    pub fn matches(&self, class: &str) -> bool {
        let (mut wanted, mut class) = (&*self.0, class);
        loop {
            let ((want, more_wanted), (token, more)) = (split_token(wanted), split_token(class));
            match want {
                ">" => return true,
                "*" => {}
                literal if literal == token => {}
                _ => return false,
            }
            match (more_wanted, more) {
                (None, None) => return true,
                (Some(w), Some(c)) => (wanted, class) = (w, c),
                _ => return false,
            }
        }
    }

    /// Whether some class matches both.
    #[must_use]
    pub fn overlaps(&self, other: &Filter) -> bool {
        let (mut a, mut b) = (self.tokens(), other.tokens());
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(Wanted::Rest), _) | (_, Some(Wanted::Rest)) => return true,
                (Some(Wanted::Literal(x)), Some(Wanted::Literal(y))) if x != y => return false,
                _ => {}
            }
        }
    }

    /// Whether every class that matches `other` matches this one too.
    #[must_use]
    pub fn covers(&self, other: &Filter) -> bool {
        let (mut a, mut b) = (self.tokens(), other.tokens());
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(Wanted::Rest), Some(_)) => return true,
                (Some(_), Some(Wanted::Rest)) => return false,
                (Some(Wanted::Any), Some(_)) => {}
                (Some(Wanted::Literal(x)), Some(Wanted::Literal(y))) if x == y => {}
                (Some(Wanted::Literal(_)), Some(_)) => return false,
            }
        }
    }

    /// The more specific filter first: token by token from the left, a literal before `*` before
    /// `>`. Filters of the same shape are ordered by their text, so that the order is total.
    #[must_use]
    pub fn cmp_specificity(&self, other: &Filter) -> Ordering {
        self.tokens()
            .map(|t| t.rank())
            .cmp(other.tokens().map(|t| t.rank()))
            .then_with(|| self.0.cmp(&other.0))
    }

    pub(crate) fn tokens(&self) -> impl Iterator<Item = Wanted<'_>> {
        self.0.split('.').map(|token| match token {
            ">" => Wanted::Rest,
            "*" => Wanted::Any,
            literal => Wanted::Literal(literal),
        })
    }
}

/// One token of a filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted<'a> {
    /// This very token.
    Literal(&'a str),
    /// `*`: any one token.
    Any,
    /// `>`: one or more tokens, whatever they are.
    Rest,
}

impl Wanted<'_> {
    fn rank(self) -> u8 {
        match self {
            Self::Literal(_) => 0,
            Self::Any => 1,
            Self::Rest => 2,
        }
    }
}

/// Goes through the tokens of `s`, counted from 1. The error is the end of a sentence.
fn check_tokens(
    s: &str,
    mut check: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<(), String> {
    let count = s.split('.').count();
    if count > MAX_TOKENS {
        return Err(format!("it has {count} tokens"));
    }
    for (n, token) in (1..).zip(s.split('.')) {
        check(n, token).map_err(|why| format!("token {n} {why}"))?;
    }
    Ok(())
}

fn check_token(token: &str, wildcard: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match token.chars().find(|c| !legal(*c)) {
        Some(c @ ('*' | '>')) => Err(format!("has the wildcard {c}, {wildcard}")),
        Some(c) => Err(format!("has the character {c:?}")),
        None if token.is_empty() => Err("is empty".to_owned()),
        None if token.len() > MAX_TOKEN_LEN => {
            Err(format!("has {} characters, at most {MAX_TOKEN_LEN} are allowed", token.len()))
        }
        None => Ok(()),
    }
}

macro_rules! checked_text {
    ($name:ident) => {
        impl $name {
            /// The text as it was written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Refusal;
            fn from_str(s: &str) -> Result<Self, Refusal> {
                Self::new(s)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Refusal;
            fn try_from(s: &str) -> Result<Self, Refusal> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Refusal;
            fn try_from(s: String) -> Result<Self, Refusal> {
                Self::new(&s)
            }
        }

        impl TryFrom<&String> for $name {
            type Error = Refusal;
            fn try_from(s: &String) -> Result<Self, Refusal> {
                Self::new(s)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> String {
                text.0.as_ref().to_owned()
            }
        }
    };
}

checked_text!(Class);
checked_text!(Filter);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(s: &str) -> Filter {
        Filter::new(s).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_bad_class_or_filter_is_refused_with_its_first_bad_token() {
        let many = ["a"; 33].join(".");
        let long = format!("a.{}", "x".repeat(65));
        let classes = [
            ("orders..new", "\"orders..new\" is no class: token 2 is empty"),
            ("", "\"\" is no class: token 1 is empty"),
            ("a.", "\"a.\" is no class: token 2 is empty"),
            ("a.b c", "\"a.b c\" is no class: token 2 has the character ' '"),
            ("a.ü", "\"a.ü\" is no class: token 2 has the character 'ü'"),
            (
                "a.*",
                "\"a.*\" is no class: token 2 has the wildcard *, which only a filter may have",
            ),
        ];
        for (class, text) in classes {
            let refused = Class::new(class).unwrap_err();
            assert_eq!((refused.code, refused.text.as_str()), (Code::InvalidClass, text));
            assert!(!refused.hint.is_empty());
        }
        assert!(Class::new(&many).unwrap_err().text.ends_with("it has 33 tokens"));
        assert!(Class::new(&long).unwrap_err().text.contains("token 2 has 65 characters"));
        assert!(Class::new(&["a"; 32].join(".")).is_ok());
        let filters = [
            ("a.>.b", "\"a.>.b\" is no filter: token 2 is > but not the last"),
            (
                "a.b*",
                "\"a.b*\" is no filter: token 2 has the wildcard *, which has to be a token of its own",
            ),
            ("a..>", "\"a..>\" is no filter: token 2 is empty"),
        ];
        for (text, why) in filters {
            let refused = Filter::new(text).unwrap_err();
            assert_eq!((refused.code, refused.text.as_str()), (Code::InvalidFilter, why));
        }
    }

    #[test]
    fn a_literal_is_more_specific_than_any_token_and_that_than_the_rest() {
        let mut filters =
            [">", "a.>", "*.b.c", "a.*.c", "a.b.c", "*.>", "a.b.>", "a.*.>", "a.b.*"].map(filter);
        filters.sort_by(Filter::cmp_specificity);
        assert_eq!(
            filters.map(|f| f.to_string()),
            ["a.b.c", "a.b.*", "a.b.>", "a.*.c", "a.*.>", "a.>", "*.b.c", "*.>", ">"]
        );
    }

    /// The rule as written in the design, on lists of tokens.
    fn model(filter: &[&str], class: &[&str]) -> bool {
        match (filter, class) {
            ([], []) => true,
            ([">"], [_, ..]) => true,
            (["*", f @ ..], [_, c @ ..]) => model(f, c),
            ([x, f @ ..], [y, c @ ..]) => x == y && model(f, c),
            _ => false,
        }
    }

    /// Every class of up to four tokens out of three.
    fn small_classes() -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..4 {
            last =
                last.iter().flat_map(|c| ["a", "b", "x-1"].map(|t| format!("{c}.{t}"))).collect();
            all.extend(last.iter().cloned());
        }
        all[1..].iter().map(|c| c[1..].to_owned()).collect()
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        let token = prop::sample::select(vec!["a", "b", "*"]);
        (prop::collection::vec(token, 0..4), any::<bool>())
            .prop_filter("not empty", |(tokens, rest)| *rest || !tokens.is_empty())
            .prop_map(|(mut tokens, rest)| {
                if rest {
                    tokens.push(">");
                }
                filter(&tokens.join("."))
            })
    }

    proptest! {
        #[test]
        fn match_overlap_and_cover_agree_with_the_rule_on_every_small_class(
            a in any_filter(), b in any_filter(),
        ) {
            let tokens: Vec<_> = a.as_str().split('.').collect();
            let (mut both, mut only_b) = (false, false);
            for class in small_classes() {
                prop_assert_eq!(a.matches(&class), model(&tokens, &class.split('.').collect::<Vec<_>>()));
                both |= a.matches(&class) && b.matches(&class);
                only_b |= !a.matches(&class) && b.matches(&class);
            }
            prop_assert_eq!(a.overlaps(&b), both);
            prop_assert_eq!(a.covers(&b), !only_b);
        }

        #[test]
        fn any_text_is_a_class_or_refused(s in "\\PC{0,80}") {
            if let Ok(class) = Class::new(&s) {
                prop_assert!(filter(">").matches(class.as_str()));
                prop_assert!(Filter::new(&s).is_ok_and(|f| f.matches(&s)));
                prop_assert_eq!(class.family(), s.split('.').next().unwrap_or_default());
            }
        }
    }
}

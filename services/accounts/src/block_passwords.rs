//! Whether a long password is made of what is tried first. The lists of leaked passwords have few entries of fifteen
//! characters and more, and nearly all of those are shorter ones in a row, walks over the keyboard, counted numbers
//! and repetitions: such a password is recognised by its parts, so that no list has to be complete.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::password::read_digits;

/// More parts than this are no longer guessed.
const PARTS: usize = 4;

/// Lines that fingers and memories follow, forwards and backwards.
const WALKS: &[&str] = &[
    "abcdefghijklmnopqrstuvwxyz",
    "12345678910111213141516171819202122232425262728293031",
    "01234567890123456789012345678901234567890",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertyuiop[]asdfghjkl;'zxcvbnm,./",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/",
    "1q2w3e4r5t6y7u8i9o0p",
    "1qa2ws3ed4rf5tg6yh7uj8ik9ol",
    "1qazxsw23edcvfr45tgbnhy67ujm",
    "q1w2e3r4t5y6u7i8o9p0",
    "qawsedrftgyhujikolp",
    "!@#$%^&*()_+",
    "qazwsxedcrfvtgbyhnujmikolp",
    "zaq12wsxcde34rfvbgt56yhnmju78ik,.lo9",
    "3.14159265358979323846264338327950288419716939937510",
    "14159265358979323846264338327950288419716939937510",
    "31415926535897932384626433832795",
    "112358132134558914423337761098",
];

/// Words and names that leaked passwords begin with or are made of.
const WORDS: &str = "password passwort passwd pass pwd motdepasse contrasena senha parola wachtwoord secret geheim admin \
    administrator root user login welcome willkommen bienvenue letmein openup open access changeme change default \
    temp temporary test testing tester guest demo example sample hello hallo bonjour world iloveyou iloveu love loveyou \
    lovely loveme you u me my mylove forever always very much so is the and a i in it to of for not no yes this that \
    dragon monkey master shadow sunshine princess football baseball basketball soccer hockey superman batman spiderman \
    ironman pokemon naruto starwars startrek starwars trustno one whatever computer internet google facebook twitter \
    instagram youtube linkedin yahoo hotmail gmail microsoft windows apple android iphone samsung amazon netflix \
    michael michelle jessica jennifer ashley amanda daniel david thomas robert william joseph charlie charles jordan \
    andrew matthew joshua anthony nicole hannah samantha elizabeth sophie sarah laura maria anna julia christian \
    christopher alexander alexandra benjamin jonathan nicholas patrick richard george harley hunter ranger buster \
    tigger pepper ginger maggie cookie summer winter spring autumn january february march april may june july august \
    september october november december monday tuesday wednesday thursday friday saturday sunday sommer \
    qwerty qwertz azerty asdf asdfgh zxcvbn zxcvbnm qazwsx abc abcd xyz king queen lord god jesus jesuschrist christ \
    blessed angel angels devil heaven hell killer lovers babygirl babyboy baby boy girl boys girls sweet sweety honey \
    flower flowers butterfly rainbow chocolate banana orange purple yellow silver golden gold black white green blue red \
    pink happy birthday christmas family mother father brother sister friend friends bestfriend best cool super mega \
    freedom liberty america england london paris berlin chelsea arsenal liverpool manchester united barcelona \
    realmadrid juventus yankees cowboys steelers lakers mustang corvette ferrari porsche mercedes yamaha kawasaki \
    metallica nirvana slipknot blink linkinpark greenday eminem matrix gandalf merlin phoenix thunder lightning storm \
    tiger lion eagle eagles falcon panther wolf bear dog dogs cat cats horse fish bird money dollar rich power magic \
    mother fucker fuck fuckyou fuckoff asshole shit bitch pussy dick sex sexy zaq correcthorsebatterystaple correct \
    horse battery staple thequickbrownfox quick brown fox jumps over lazy bla blah foo bar baz lorem ipsum dolor \
    new old my your our its what who how cant can dont do remember forget forgot forgotten security secure private \
    personal account bank office work school student teacher company business service server database system network \
    mysql postgres oracle linux ubuntu raspberry cisco letme inside enter please come back go home house";

/// What frequency lists of leaked passwords have of fifteen characters and more, and the rules do not see.
const LEAKED: &str = "23176djivanfros aksjdlasdakj89879 bhrh0h2oof6xbqjeh bpgjldsgjldthnf doomsayer.2.7mords.v \
    doomsayer.2.7mords.vv hd764nw5d7e1vb1 hd764nw5d7e1vbv inactive1996aug john!20130605at1753 kartoffelpuffer \
    lhbjkjubz2957704 lightpower12345 lytdybrbdfvgbhf mailcreated5240 mega_pizdetz666 migrationschool \
    momsanaladventure ne_e_pod_chehyl nemvxyheqdd5oqxyxyzi neworleans12345 nick1234-rem936 polniypizdec0211 \
    polniypizdec1102 polniypizdec110211 sdf7asdf6asdg8df somanypickles27 stefangreil1983 yfdbufnjh10305070 \
    zqjphsyf6ctifgu friendofemily friendofgerly 420842084208555";

/// What one character can begin. Every place of a password is looked up here, so that a long one costs little before
/// anybody has counted the request.
#[derive(Default)]
struct Beginnings {
    words: Vec<Vec<char>>,
    /// Each walk from each of its places on, in both directions.
    walks: Vec<Vec<char>>,
}

static BEGINNINGS: LazyLock<HashMap<char, Beginnings>> = LazyLock::new(|| {
    let mut beginnings: HashMap<char, Beginnings> = HashMap::new();
    for word in WORDS.split_whitespace() {
        let word: Vec<char> = word.chars().collect();
        beginnings.entry(word[0]).or_default().words.push(word);
    }
    for walk in WALKS {
        let forwards: Vec<char> = walk.chars().collect();
        let backwards: Vec<char> = walk.chars().rev().collect();
        for walk in [forwards, backwards] {
            for at in 0..walk.len() {
                beginnings.entry(walk[at]).or_default().walks.push(walk[at..].to_vec());
            }
        }
    }
    beginnings
});

/// More characters than this that no rule sees make a password one's own.
const UNSEEN: usize = 7;

/// Whether `text` is a leaked one, is one part several times, or is put together from at most four of: a word of the
/// list, a walk, one character repeated, a few digits at the end; and up to seven other characters in a row.
pub(crate) fn is_common(text: &str) -> bool {
    let lower = text.to_lowercase();
    let bare: String = lower
        .chars()
        .filter(|c| !c.is_whitespace() && !"-_.,;:+".contains(*c))
        .collect();
    let read = read_digits(&bare);
    let mut variants = vec![lower, bare, read];
    variants.dedup();
    // With little left after the spaces are gone, they were what it is about.
    variants.iter().filter(|text| text.chars().count() >= 12).any(|text| {
        let leaked = LEAKED.split_whitespace().any(|known| known == text);
        let text: Vec<char> = text.chars().collect();
        leaked || is_repeated(&text) || is_made_of_parts(&text)
    })
}

/// One part of at most half the length, over and over.
fn is_repeated(text: &[char]) -> bool {
    (1..=text.len() / 2).any(|n| text.iter().zip(&text[n..]).all(|(a, b)| a == b))
}

fn is_made_of_parts(text: &[char]) -> bool {
    // fewest[own][n]: of how few parts the first n characters are made, with a stretch of one's own or without.
    let mut fewest = [vec![usize::MAX; text.len() + 1], vec![usize::MAX; text.len() + 1]];
    fewest[0][0] = 0;
    for at in 0..text.len() {
        let before = [fewest[0][at], fewest[1][at]];
        if before.iter().all(|parts| *parts >= PARTS) {
            continue;
        }
        let rest = &text[at..];
        let mut reach = |length: usize| {
            for (own, parts) in before.iter().enumerate().filter(|(_, parts)| **parts < PARTS) {
                let end = &mut fewest[own][at + length];
                *end = (parts + 1).min(*end);
            }
        };
        if let Some(beginnings) = BEGINNINGS.get(&rest[0]) {
            for word in beginnings.words.iter().filter(|word| rest.starts_with(word)) {
                reach(word.len());
            }
            let steps = |walk: &Vec<char>| walk.iter().zip(rest).take_while(|(a, b)| a == b).count();
            for walk in 3..=beginnings.walks.iter().map(steps).max().unwrap_or(0) {
                reach(walk);
            }
        }
        let same = rest.iter().take_while(|c| **c == rest[0]).count();
        for run in 3..=same {
            reach(run);
        }
        // A year, a day or what else is put behind a word.
        let digits = rest
            .iter()
            .take_while(|c| c.is_ascii_digit() || "!?#*$".contains(**c))
            .count();
        if digits == rest.len() && digits <= 8 && before[0] < PARTS {
            fewest[0][text.len()] = (before[0] + 1).min(fewest[0][text.len()]);
        }
        for length in 1..=UNSEEN.min(rest.len()) {
            let end = &mut fewest[1][at + length];
            *end = before[0].saturating_add(1).min(*end);
        }
    }
    fewest.iter().any(|fewest| fewest[text.len()] <= PARTS)
}

#[cfg(test)]
mod tests {
    use super::is_common;

    #[test]
    fn what_is_tried_first_is_recognised() {
        for text in [
            "passwordpassword",
            "password1234567",
            "Password123456789!",
            "P@ssw0rdP@ssw0rd",
            "123456789012345",
            "1234567891011121314",
            "987654321987654321",
            "qwertyuiopasdfghjkl",
            "QWERTYUIOP123456",
            "1q2w3e4r5t6y7u8i",
            "1qaz2wsx3edc4rfv",
            "zaq12wsxcde34rfv",
            "abcdefghijklmnop",
            "aaaaaaaaaaaaaaaa",
            "abcabcabcabcabcabc",
            "iloveyouverymuch",
            "i love you so much",
            "jesuschrist12345",
            "summerwinter2026!",
            "Welcome-Welcome-2026",
            "letmeinletmeinletmein",
            "correct horse battery staple",
            "administrator123",
            "314159265358979",
            "changemechangeme",
            "manchesterunited",
            "michaeljordan23!",
            "thequickbrownfox",
            "familiyafamiliya",
            "demon1q2w3e4r5t",
            "1qazxsw23edcvfr4",
            "friend of Emily",
            "Kartoffelpuffer",
            "passwordassword",
            "111222333444555",
        ] {
            assert!(is_common(text), "{text}");
        }
    }

    #[test]
    fn what_nobody_tries_first_is_taken() {
        for text in [
            "qmxvtzrkwbnpfhsldgjc",
            "plumber otter vivid canal",
            "maple-tractor-19-zinc",
            "748291650371946",
            "my dog ate seven sandwiches",
            "\u{1f642} \u{1f643} \u{1f642} \u{1f418} \u{1f643} \u{1f418} \u{1f335} \u{1f98a}",
            "Tr0ub4dor&3-plus-more",
            "the otter sleeps in my canal",
        ] {
            assert!(!is_common(text), "{text}");
        }
    }

    #[test]
    fn the_longest_password_is_judged_at_once() {
        let text: String = "passwordabc1".chars().cycle().take(255).chain(['?']).collect();
        let started = std::time::Instant::now();
        assert!(!is_common(&text));
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }
}

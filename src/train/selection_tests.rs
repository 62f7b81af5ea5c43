#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::config::TrainFlags;
use crate::text::PromptContent;

fn config(set: impl FnOnce(&mut TrainFlags)) -> TrainConfig {
    let mut flags = TrainFlags {
        validation_prompts: Some(EMBEDDED.into()),
        ..Default::default()
    };
    set(&mut flags);
    flags.resolve(&|_| Some("tiny-reward".into())).unwrap()
}

fn tokens(prompts: &[&[u32]]) -> Vec<Prompt> {
    let one = |tokens: &&[u32]| Prompt {
        content: PromptContent::Text("p".into()),
        tokens: tokens.to_vec(),
    };
    prompts.iter().map(one).collect()
}

fn state(best: Option<Best>) -> TrainerState {
    TrainerState {
        kind: "train".into(),
        step: 4,
        optimizer_steps: 4,
        data_position: 8,
        device: "d".into(),
        half_blocks: 0,
        best,
        data: None,
        base: None,
    }
}

#[test]
fn a_score_is_the_mean_of_the_best_rewards() {
    assert_eq!(top_mean(&[1.0, -3.0, 5.0, 2.0], 2), 3.5);
    assert_eq!(top_mean(&[1.0, 2.0], 10), 1.5);
    assert_eq!(top_mean(&[4.0], 1), 4.0);
}

#[test]
fn embedded_prompts_are_fixed_over_seeds_and_none_is_trained_on() {
    let a = embedded(&config(|f| f.validation_size = Some(40))).unwrap();
    let b = embedded(&config(|f| (f.seed, f.validation_size) = (Some(9), Some(40)))).unwrap();
    let texts = |all: &[demo::Example]| all.iter().map(|e| e.prompt.clone()).collect::<Vec<_>>();
    assert_eq!((a.len(), texts(&a)), (40, texts(&b)));
    for e in &a {
        assert_eq!(Split::of(&e.prompt), Split::Validation);
    }
    let e = embedded(&config(|f| f.model = Some("other".into()))).unwrap_err();
    assert!(
        e.to_string().contains("--validation-prompts embedded") && e.exit_code() == 2,
        "{e}"
    );
}

#[test]
fn scores_by_another_criterion_are_not_compared() {
    let c = config(|_| ());
    let prompts = tokens(&[&[1, 2], &[3]]);
    assert!(Selection::new(&c, &[], None).unwrap().is_none());
    let fresh = Selection::new(&c, &prompts, Some(&state(None))).unwrap().unwrap();
    let best = Best {
        step: 2,
        score: 0.1,
        criterion: fresh.criterion.clone(),
    };
    let with = state(Some(best.clone()));
    let text = serde_json::to_string(&with).unwrap();
    assert_eq!(serde_json::from_str::<TrainerState>(&text).unwrap(), with);
    let on = Selection::new(&c, &prompts, Some(&with)).unwrap().unwrap();
    assert_eq!(on.best(), Some(best));
    // The same ids, cut elsewhere, are other prompts.
    let other = tokens(&[&[1], &[2, 3]]);
    let e = Selection::new(&c, &other, Some(&with)).err().unwrap();
    assert!(e.to_string().contains("of other prompts"), "{e}");
    // Another judge, another length, the same prompts asked otherwise: none of these is seen in the sizes.
    type Set = fn(&mut TrainFlags);
    let changes: [(Set, &str, &str); 4] = [
        (
            |f| f.reward_model = Some("other".into()),
            "--reward-model",
            "tiny-reward",
        ),
        (
            |f| f.reward_adapter = Some("lora".into()),
            "--reward-adapter",
            "lora",
        ),
        (|f| f.base_dtype = Some("q8_0".into()), "--base-dtype", "q8_0"),
        (
            |f| f.max_completion_length = Some(9),
            "--max-completion-length",
            "24",
        ),
    ];
    for (set, flag, value) in changes {
        let e = Selection::new(&config(set), &prompts, Some(&with)).err().unwrap();
        assert_eq!(e.exit_code(), 2);
        assert!(
            e.to_string().contains(flag) && e.to_string().contains(value),
            "{e}"
        );
    }
    let mut asked = prompts.clone();
    asked[0].content = PromptContent::Text("q".into());
    let e = Selection::new(&c, &asked, Some(&with)).err().unwrap();
    assert!(e.to_string().contains("--validation-prompts"), "{e}");
    // Another learning rate scores alike, and checkpoints of older versions do not say who judged.
    let rate = config(|f| f.learning_rate = Some(0.5));
    assert!(Selection::new(&rate, &prompts, Some(&with)).unwrap().is_some());
    let mut old = with.clone();
    old.best.as_mut().unwrap().criterion.judged = None;
    let text = serde_json::to_string(&old).unwrap();
    assert!(!text.contains("judged"));
    let old = serde_json::from_str::<TrainerState>(&text).unwrap();
    let other = config(|f| f.reward_model = Some("other".into()));
    assert!(Selection::new(&other, &prompts, Some(&old)).unwrap().is_some());
    let fewer = config(|f| f.validation_top = Some(3));
    let e = Selection::new(&fewer, &prompts, Some(&with)).err().unwrap();
    assert!(
        e.to_string().contains("top 10") && e.to_string().contains("top 3"),
        "{e}"
    );
}

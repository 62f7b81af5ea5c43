//! `demo`: trains the embedded policy and shows what it gained.

use super::common::{say, tell};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::Globals;
use super::demo_data::COMPLETION;
use crate::advantage::Alpha;
use crate::config::{Residency, TrainConfig, TrainFlags, range};
use crate::demo::{self, EVAL_SEED, Example, Kind};
use crate::error::{Context, Error, Result};
use crate::eval::bootstrap::told;
use crate::eval::compare::{Comparison, compare, save_plot};
use crate::eval::judging::evaluate;
use crate::eval::run::{Evaluation, Policy, PolicyOptions, Sampling};
use crate::eval::{Bootstrap, curve, powers_of_two};
use crate::gpu::Gpu;
use crate::kernels::sample::SampleParams;
use crate::model::save::write_atomic;
use crate::report::{Align, Cell, Plot, Progress, Series, Table, column, read_metrics};
use crate::reward::{self, DemoScore, Reward, RewardOptions};
use crate::run::{Dir, interrupt, kinds};
use crate::text::{PromptContent, TemplateDate};
use crate::train::checkpoint::RunDir;
use crate::train::run::{RunOptions, train};
use crate::train::setup::default_reward;
use crate::words;

/// Train the embedded policy for best-of-N and compare it with where it started
///
/// TEA on the embedded models, then best-of-1 … best-of-64 of the base and the trained policy on held-out prompts, under the
/// reward model it was trained with and under the true score it never saw. OUTPUT gets the run (config.toml, metrics.jsonl,
/// checkpoints), results.json, results.md, best_of_n-*.svg and .png, reward.svg and .png.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  tea-wgpu demo --output runs/demo")]
pub(crate) struct Args {
    /// Directory of the run
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    output: PathBuf,
    /// Training steps
    #[arg(long, default_value_t = 60)]
    steps: u64,
    /// Responses sampled for each held-out prompt: the largest n
    #[arg(long, value_name = "N", default_value_t = 64)]
    samples: usize,
    /// Held-out prompts
    #[arg(long, value_name = "N", default_value_t = 60)]
    prompts: usize,
    /// Seed of training, prompts and samples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rule that turns a group's rewards into advantages
    #[arg(long, default_value = "tea")]
    advantage: String,
    /// Learning rate (default: as `train`)
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Continue the run in --output
    #[arg(long)]
    resume: bool,
    /// Replace the run in --output
    #[arg(long)]
    overwrite: bool,
    /// Train nothing: print how this model does on the held-out prompts, by kind of task
    #[arg(long, value_name = "MODEL", hide = true)]
    evaluate_only: Option<String>,
    /// LoRA adapter directory of --evaluate-only
    #[arg(long, value_name = "DIR", hide = true, requires = "evaluate_only")]
    adapter: Option<PathBuf>,
    /// Judge --evaluate-only by this reward model too
    #[arg(long, value_name = "MODEL", hide = true, requires = "evaluate_only")]
    reward_model: Option<String>,
}

/// Sequences sampled together in an evaluation.
const BATCH: usize = 512;

/// Everything that results.json holds.
#[derive(Serialize)]
struct Results<'a> {
    settings: &'a TrainConfig,
    held_out_prompts: usize,
    samples: usize,
    device: String,
    comparisons: Vec<Comparison>,
    base: Summary,
    trained: Summary,
    seconds: Seconds,
}

/// One policy's responses in numbers.
#[derive(Serialize)]
struct Summary {
    exactly_right: f64,
    mean_true_score: f64,
    mean_length: f64,
    truncated: f64,
}

#[derive(Serialize)]
struct Seconds {
    training: f64,
    evaluation: f64,
}

impl Summary {
    /// `e`'s last judge is the true score.
    fn of(e: &Evaluation) -> Result<Self> {
        let truth = e.rewards.last().ok_or_else(|| Error::internal("no true score"))?;
        Ok(Self {
            exactly_right: truth.share_at_least(1.0),
            mean_true_score: truth.mean(),
            mean_length: e.mean_length(),
            truncated: e.truncated_ratio(),
        })
    }
}

impl Args {
    fn config(&self) -> Result<TrainConfig> {
        let all = [
            ("--prompts", self.prompts as u64),
            ("--samples", self.samples as u64),
        ];
        range::check_product(&all, range::RESPONSES, "responses")?;
        TrainFlags {
            steps: Some(self.steps),
            seed: Some(self.seed),
            advantage: Some(self.advantage.clone()),
            learning_rate: self.learning_rate,
            ..Default::default()
        }
        .resolve(&default_reward)
    }

    fn held_out(&self) -> (Vec<Example>, Vec<PromptContent>) {
        let examples = demo::held_out(self.seed, self.prompts);
        let contents = examples
            .iter()
            .map(|e| PromptContent::Text(e.prompt.clone()))
            .collect();
        (examples, contents)
    }
}

/// What an evaluation needs beside the policy.
struct Exam<'a> {
    gpu: &'a Gpu,
    contents: &'a [PromptContent],
    samples: usize,
    seed: u64,
    date: TemplateDate,
}

impl Exam<'_> {
    fn judge(&self, name: &str) -> Result<Box<dyn Reward>> {
        let options = RewardOptions {
            adapter: None,
            dtype: None,
            token_budget: 4096,
            positions: usize::MAX,
            residency: Residency::Resident,
            free: None,
            raw: false,
            date: self.date,
        };
        reward::open(self.gpu, name, &options).context("--reward-model")
    }

    /// Base and trained are drawn with the same random numbers.
    fn take(
        &self,
        policy: &str,
        adapter: Option<&Path>,
        rewards: &mut [&mut dyn Reward],
    ) -> Result<Evaluation> {
        let options = PolicyOptions {
            adapter,
            dtype: None,
            max_completion_length: COMPLETION,
            raw: false,
            date: self.date,
            prompts_file: None,
        };
        let sampling = Sampling {
            params: SampleParams::PLAIN,
            seed: self.seed ^ EVAL_SEED,
            batch: BATCH,
            kv_cache_dtype: Default::default(),
        };
        let policy = Policy::load(self.gpu, policy, self.contents, &options)?;
        let mut draws = policy.draws(self.samples, &sampling)?;
        let _waiting = Progress::waiting("sampling and scoring");
        evaluate(&mut draws, self.contents, 0..self.contents.len(), rewards)
    }
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    let config = args.config()?;
    let date = config.template_date.parse()?;
    let held = match args.evaluate_only {
        Some(_) => None,
        None => Some(Dir::hold(&args.output, &kinds::DEMO)?),
    };
    if let Some(held) = &held {
        // Before anything is announced.
        RunDir::check(held, args.resume, args.overwrite)?;
    }
    let (examples, contents) = args.held_out();
    let gpu = globals.open_gpu()?;
    let exam = Exam {
        gpu: &gpu,
        contents: &contents,
        samples: args.samples,
        seed: args.seed,
        date,
    };
    match &args.evaluate_only {
        Some(model) => headroom(args, &exam, model, &examples),
        None => show(args, config, &exam),
    }
}

/// Trains, evaluates, reports.
fn show(args: &Args, config: TrainConfig, exam: &Exam<'_>) -> Result<()> {
    tell(format_args!(
        "Training the embedded policy by {} for {} steps on {} …",
        config.advantage,
        config.steps,
        exam.gpu.report().name
    ));
    let begun = Instant::now();
    let options = RunOptions {
        output: args.output.clone(),
        resume: args.resume,
        overwrite: args.overwrite,
    };
    let adapter = train(exam.gpu, config.clone(), &options)?;
    let trained_at = Instant::now();
    Dir::hold(&args.output, &kinds::DEMO)?.claim()?;
    tell(format_args!(
        "Trained in {:.0} s. Sampling {} responses to each of {} held-out prompts, before and after …",
        (trained_at - begun).as_secs_f64(),
        exam.samples,
        exam.contents.len()
    ));
    still_wanted(&adapter)?;
    let mut judge = exam.judge(&config.reward_model)?;
    let base = exam.take(&config.model, None, &mut [&mut *judge, &mut DemoScore])?;
    still_wanted(&adapter)?;
    tell("Sampled and scored the base policy. Now the trained one …");
    let trained = exam.take(&config.model, Some(&adapter), &mut [&mut *judge, &mut DemoScore])?;
    let alpha: Alpha = config.alpha.parse::<Alpha>().context("--alpha")?;
    let results = Results {
        held_out_prompts: exam.contents.len(),
        samples: exam.samples,
        device: exam.gpu.report().name.clone(),
        comparisons: comparisons(&base, &trained, alpha)?,
        base: Summary::of(&base)?,
        trained: Summary::of(&trained)?,
        seconds: Seconds {
            training: (trained_at - begun).as_secs_f64(),
            evaluation: trained_at.elapsed().as_secs_f64(),
        },
        settings: &config,
    };
    write(&args.output, &results)?;
    tell(format_args!("\n{}", markdown(&results)));
    tell(format_args!("Written to {}", args.output.display()));
    Ok(())
}

/// Ends the demo between its parts where the user asked for it.
fn still_wanted(adapter: &Path) -> Result<()> {
    match interrupt::requested() {
        false => Ok(()),
        true => Err(Error::Interrupted(format!(
            "the run is trained and saved in {}; continue with --resume",
            adapter.display()
        ))),
    }
}

fn comparisons(base: &Evaluation, trained: &Evaluation, alpha: Alpha) -> Result<Vec<Comparison>> {
    let samples = base.responses.first().map_or(0, Vec::len);
    let sizes = powers_of_two(samples);
    let of = |values: &[Vec<f64>]| curve(values, &sizes, alpha);
    let judges = base.rewards.iter().zip(&trained.rewards);
    judges
        .map(|(b, t)| {
            let curves = [
                ("base".to_string(), of(&b.values)?),
                ("trained".to_string(), of(&t.values)?),
            ];
            compare(&b.name, &curves, 0, &Bootstrap::default())
        })
        .collect()
}

/// What a judge is, for headings.
fn describe(reward: &str) -> &'static str {
    if reward == DemoScore.name() {
        "the true score, in [0, 1], which training never saw"
    } else {
        "the reward model it was trained with"
    }
}

/// results.md, also printed.
fn markdown(r: &Results<'_>) -> String {
    let c = r.settings;
    let mut text = format!(
        "# Best-of-n of the embedded policy, before and after {}\n\n\
         {} steps of {} prompts × {} responses (seed {}), then {} samples of each of {} held-out prompts. {}\n",
        c.advantage.to_uppercase(),
        c.steps,
        c.prompts_per_step,
        c.num_generations,
        c.seed,
        r.samples,
        r.held_out_prompts,
        told(r.held_out_prompts, "paired bootstrap over prompts")
    );
    for comparison in &r.comparisons {
        text += &format!("\n## {}: {}\n", comparison.reward, describe(&comparison.reward));
        for trained in comparison.others() {
            text += &format!("\n{}", comparison.pair_table(trained, 3).markdown());
        }
    }
    let share = |v: f64| format!("{:.1}%", 100.0 * v);
    text += &format!(
        "\nExactly right: {} → {} of samples. Mean length: {:.1} → {:.1} tokens; cut off: {} → {}.\n\
         Training took {:.0} s, evaluation {:.0} s, on {}.\n",
        share(r.base.exactly_right),
        share(r.trained.exactly_right),
        r.base.mean_length,
        r.trained.mean_length,
        share(r.base.truncated),
        share(r.trained.truncated),
        r.seconds.training,
        r.seconds.evaluation,
        words::markdown(&r.device)
    );
    text
}

fn write(output: &Path, results: &Results<'_>) -> Result<()> {
    let json = serde_json::to_string_pretty(results).map_err(Error::internal)? + "\n";
    write_atomic(&output.join("results.json"), json.as_bytes())?;
    write_atomic(&output.join("results.md"), markdown(results).as_bytes())?;
    for comparison in &results.comparisons {
        let plot = comparison.plot(&format!("Best of n on held-out prompts: {}", comparison.reward));
        save_plot(&plot, output, &format!("best_of_n-{}", comparison.reward))?;
    }
    let records = read_metrics(output.join("metrics.jsonl"))?;
    let curve = |label: &str, name: &str| Series::line(label, column(&records, name));
    let plot = Plot::over_steps(
        "Reward in training",
        "reward",
        vec![curve("best of the group", "reward_max"), curve("mean", "reward")],
    );
    save_plot(&plot, output, "reward")
}

/// How much room best-of-n has to climb: exact share and best-of-n by kind of task under the true score.
fn headroom(args: &Args, exam: &Exam<'_>, model: &str, examples: &[Example]) -> Result<()> {
    let mut judge = args
        .reward_model
        .as_deref()
        .map(|name| exam.judge(name))
        .transpose()?;
    let mut truth = DemoScore;
    let mut rewards: Vec<&mut dyn Reward> = Vec::new();
    if let Some(judge) = &mut judge {
        rewards.push(&mut **judge);
    }
    rewards.push(&mut truth);
    let e = exam.take(model, args.adapter.as_deref(), &mut rewards)?;
    let sizes = powers_of_two(exam.samples);
    for judged in &e.rewards {
        let columns = ["kind".to_string(), "exactly right".to_string()]
            .into_iter()
            .chain(sizes.iter().map(|n| format!("bo{n}")));
        let mut table = Table::new(columns.map(|c| (c, Align::Right)));
        for kind in Kind::ALL.iter().map(|k| Some(*k)).chain([None]) {
            let chosen: Vec<Vec<f64>> = examples
                .iter()
                .zip(&judged.values)
                .filter(|(e, _)| kind.is_none_or(|k| e.kind == k))
                .map(|(_, v)| v.clone())
                .collect();
            if chosen.is_empty() {
                continue;
            }
            let right = chosen.iter().flatten().filter(|r| **r >= 1.0).count();
            let number = |value: f64| Cell::Number { value, digits: 3 };
            let mut row = vec![
                kind.map_or("all", Kind::name).into(),
                number(right as f64 / (chosen.len() * exam.samples) as f64),
            ];
            row.extend(
                curve(&chosen, &sizes, Alpha::default())?
                    .iter()
                    .map(|b| number(b.mean())),
            );
            table.push(row);
        }
        say(format_args!("{}\n{}", judged.name, table.markdown()))?;
    }
    say(format_args!(
        "mean length {:.1} tokens, cut off {:.1}%",
        e.mean_length(),
        100.0 * e.truncated_ratio()
    ))?;
    Ok(())
}

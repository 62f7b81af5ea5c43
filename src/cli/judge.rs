//! `judge`: a language model's verdict on two evaluations, prompt by prompt.

use super::common::Lines;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::eval::bootstrap::told;
use crate::eval::judge::{Endpoint, JudgeResult, JudgeSettings, MAX_TOKENS, MOST_TOKENS, judge, table};
use crate::eval::store::StoredEval;
use crate::model::save::write_atomic;
use crate::run::{Dir, kinds};
use crate::words;

/// Have a language model compare the best responses of two evaluations, through any OpenAI-compatible server
///
/// For each prompt the best of n responses of either evaluation, by its stored reward, is shown to the judge in a random, seeded
/// order. OUTPUT gets judge.json, judgements.jsonl (prompt by prompt, so --resume loses nothing), results.json and results.md.
/// Wins are E1's. The key is read from the environment and is never stored or shown, at any level
/// of the log. A server that sends questions on to another address is not followed.
///
/// A parameter that the server refuses (max_tokens, temperature, response_format, stream) is
/// replaced or left out for the rest of the run. A warning says so, and judge.json and the results
/// keep it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llama-server -m judge.gguf --port 8080 &
  tea-wgpu judge eval-tea eval-grpo --endpoint http://127.0.0.1:8080 --model judge --output judged
  OPENAI_API_KEY=… tea-wgpu judge eval-tea eval-base --endpoint https://api.openai.com/v1 --model gpt-4o-mini \\
      --n 64 --concurrency 8 --output judged")]
pub(crate) struct Args {
    /// Evaluation directory whose wins are counted
    #[arg(value_name = "E1")]
    first: PathBuf,
    /// Evaluation directory it is compared with, of the same prompts
    #[arg(value_name = "E2")]
    second: PathBuf,
    /// Address of an OpenAI-compatible server, with or without /v1
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// The judge's name on that server
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Compare the best of the first N samples (default: of all)
    #[arg(short, long, value_name = "N")]
    n: Option<usize>,
    /// Directory of judgements and results (default: print only)
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Environment variable that holds the key; it need not be set for servers without one
    #[arg(long, value_name = "NAME", default_value = "OPENAI_API_KEY")]
    api_key_env: String,
    /// Most tokens of an answer [default: 512, more for a judge that thinks]
    ///
    /// A judge that thinks can spend all of them before its answer begins. Without this option the
    /// limit is then raised, to at most 16384, and a warning says so. A limit that is given is kept.
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<u32>,
    /// Most seconds for one answer
    ///
    /// A wait that the server asks for is no longer either, and never longer than 120 seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60.0,
        allow_negative_numbers = true
    )]
    timeout: f64,
    /// Tries after the first while the server is down, slow, overloaded or broken
    #[arg(long, value_name = "N", default_value_t = 5)]
    retries: u32,
    /// Seconds before the first retry; doubled with each, with jitter, unless the server names a time
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    backoff: f64,
    /// Questions in flight at once
    #[arg(long, value_name = "N", default_value_t = 4)]
    concurrency: usize,
    /// Seed of the positions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Go on with the judgements in --output; questions that the server refused are asked again
    #[arg(long, requires = "output")]
    resume: bool,
    /// Print results.json instead of the table
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(&self) -> Result<()> {
        let [timeout, backoff] =
            [("--timeout", self.timeout), ("--backoff", self.backoff)].map(|(flag, seconds)| {
                Duration::try_from_secs_f64(seconds)
                    .ok()
                    .filter(|d| d.as_secs() <= 86_400)
                    .ok_or_else(|| {
                        Error::user(format!(
                            "{flag} {seconds}: give seconds from 0 to 86400, such as 60"
                        ))
                    })
            });
        self.check_key_env()?;
        let endpoint = Endpoint {
            url: self.endpoint.clone(),
            model: self.model.clone(),
            key: std::env::var(&self.api_key_env)
                .ok()
                .map(|k| k.trim().to_string())
                .filter(|k| !k.is_empty()),
            key_env: self.api_key_env.clone(),
            timeout: timeout?,
            retries: self.retries,
            backoff: backoff?,
            max_tokens: self.max_tokens.unwrap_or(MAX_TOKENS),
            most_tokens: self.max_tokens.unwrap_or(MOST_TOKENS),
        };
        let settings = JudgeSettings {
            n: self.n,
            seed: self.seed,
            concurrency: self.concurrency,
            output: self.output.clone(),
            resume: self.resume,
        };
        let held = self.output.as_deref().map(|dir| Dir::hold(dir, &kinds::JUDGE));
        let held = held.transpose()?;
        if let Some(held) = &held {
            held.check(false)?;
        }
        let read = |dir: &PathBuf| StoredEval::read(dir).context(dir.display());
        let (first, second) = (read(&self.first)?, read(&self.second)?);
        let result = judge(
            (&self.first, &first),
            (&self.second, &second),
            endpoint,
            &settings,
        )?;
        self.report(&result)
    }

    /// Refuses a key where the name of its variable belongs: messages would show it.
    fn check_key_env(&self) -> Result<()> {
        let name = self.api_key_env.as_str();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_name = name.chars().all(word) && !name.starts_with(|c: char| c.is_ascii_digit());
        if is_name && !name.is_empty() && !name.starts_with("hf_") {
            return Ok(());
        }
        Err(Error::user(
            "--api-key-env takes the name of an environment variable, such as OPENAI_API_KEY, and not the key itself",
        ))
    }

    fn report(&self, result: &JudgeResult) -> Result<()> {
        let json = serde_json::to_string_pretty(result).map_err(Error::internal)? + "\n";
        let text = markdown(result);
        if let Some(dir) = &self.output {
            write_atomic(&dir.join("results.json"), json.as_bytes())?;
            write_atomic(&dir.join("results.md"), text.as_bytes())?;
        }
        let mut out = Lines::new();
        out.text(if self.json {
            json.trim_end()
        } else {
            text.trim_end()
        });
        out.finish_beside(self.output.as_deref())
    }
}

fn markdown(r: &JudgeResult) -> String {
    let mut text = format!(
        "Best of {} responses to each of {} prompts, judged by {}\n\n{}\n",
        r.settings.n,
        r.prompts,
        words::markdown(&r.settings.model),
        table(r).markdown()
    );
    // Each valid judgement is a prompt.
    let told = told(r.wins + r.ties + r.losses, "bootstrap over prompts");
    text += &format!(
        "Win rate: (wins + ties / 2) / valid. {told} \"Shown first won\" is 0.5 for a judge without position bias."
    );
    let differences = r.settings.asked.differences();
    if !differences.is_empty() {
        text += &format!(" The server was asked {}.", differences.join(", "));
    }
    if r.equal > 0 {
        text += &format!(
            " {} of the ties are equal responses, which were not shown to the judge.",
            r.equal
        );
    }
    if r.invalid > 0 {
        text += &format!(
            " {} of {} prompts have no valid answer and are left out.",
            r.invalid, r.prompts
        );
    }
    if r.refused > 0 {
        text += &format!(
            " {} of {} questions were refused by the server and are left out; --resume asks them again.",
            r.refused, r.prompts
        );
    }
    text + "\n"
}

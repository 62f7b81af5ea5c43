//! Refusals of known servers, and what is done about them.
#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

fn refused(manner: &Manner, body: &Value) -> Vec<(Parameter, bool)> {
    manner.refused(body, &words(&body.to_string()))
}

fn openai(message: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}})
}

#[test]
fn refusals_of_known_servers_name_a_parameter() {
    use Parameter::{MaxTokens, ResponseFormat, Stream, Temperature};
    let instead = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
    let only_one = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.";
    let forbidden = |loc: Value| json!({"type": "extra_forbidden", "loc": loc, "msg": "Extra inputs are not permitted", "input": 512});
    let cases = [
        // OpenAI's o-series and gpt-5, and Azure.
        (
            openai(instead, Some("max_tokens"), Some("unsupported_parameter")),
            MaxTokens,
        ),
        (openai(instead, None, None), MaxTokens),
        (
            openai(only_one, Some("temperature"), Some("unsupported_value")),
            Temperature,
        ),
        (
            openai(
                "Unrecognized request argument supplied: response_format",
                None,
                None,
            ),
            ResponseFormat,
        ),
        (
            openai(
                "Invalid parameter: 'response_format' of type 'json_object' is not supported with this model.",
                Some("response_format"),
                None,
            ),
            ResponseFormat,
        ),
        // FastAPI, Mistral, vLLM.
        (
            json!({"detail": [forbidden(json!(["body", "response_format"]))]}),
            ResponseFormat,
        ),
        (
            json!({"object": "error", "message": {"detail": [forbidden(json!(["body", "max_tokens"]))]}, "code": null}),
            MaxTokens,
        ),
        (
            json!({"object": "error", "code": 400, "param": null, "message":
                "[{'type': 'extra_forbidden', 'loc': ('body', 'temperature'), 'msg': 'Extra inputs are not permitted'}]"}),
            Temperature,
        ),
        // Text Generation Inference.
        (
            json!({"error": "Input validation error: `temperature` must be strictly positive", "error_type": "validation"}),
            Temperature,
        ),
        // LM Studio, DeepSeek, Groq, llama.cpp.
        (
            json!({"error": "'response_format.type' must be 'json_schema' or 'text'"}),
            ResponseFormat,
        ),
        (
            openai("This response_format type is unavailable now", None, None),
            ResponseFormat,
        ),
        (
            openai(
                "'response_format' : property 'response_format' is unsupported",
                None,
                None,
            ),
            ResponseFormat,
        ),
        (
            json!({"error": {"code": 500, "message": "Unsupported param: stream"}}),
            Stream,
        ),
        // Anthropic, Gemini, Moonshot.
        (
            openai("`temperature` is deprecated for this model.", None, None),
            Temperature,
        ),
        (
            json!([{"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \"max_tokens\": Cannot find field."}}]),
            MaxTokens,
        ),
        (
            openai(
                "invalid temperature: only 1 is allowed for this model",
                None,
                None,
            ),
            Temperature,
        ),
        // Those that say what a value would have to be.
        (
            openai(
                "temperature (0.0) should be greater than 0 and less than or equal to 2",
                None,
                None,
            ),
            Temperature,
        ),
        // A server that lists what it knows.
        (
            json!({"error": "unknown field `stream`, expected one of `model`, `messages`, `temperature`, `max_tokens`"}),
            Stream,
        ),
        // A provider behind another server.
        (
            json!({"error": {"message": "Provider returned error", "code": 400,
                "metadata": {"raw": openai(instead, Some("max_tokens"), None).to_string()}}}),
            MaxTokens,
        ),
    ];
    for (body, want) in cases {
        let found: Vec<_> = refused(&Manner::default(), &body)
            .into_iter()
            .map(|f| f.0)
            .collect();
        assert_eq!(found, [want], "{body}");
    }
    for two in [
        "Unrecognized request arguments supplied: max_tokens, temperature",
        "Unsupported parameters: max_tokens, temperature. Supported parameters: messages, stream",
    ] {
        assert_eq!(
            refused(&Manner::default(), &openai(two, None, None)).len(),
            2,
            "{two}"
        );
    }
}

#[test]
fn other_refusals_name_none() {
    for body in [
        openai(
            "max_tokens is too large: 100000. This model supports at most 4096 completion tokens.",
            Some("max_tokens"),
            None,
        ),
        openai(
            "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 4096 tokens",
            None,
            None,
        ),
        openai(
            "The response was filtered: the prompt is about the temperature of stars.",
            Some("prompt"),
            Some("content_filter"),
        ),
        openai("max_tokens_per_day is not supported", None, None),
        json!({"detail": [{"type": "missing", "loc": ["body", "prompt"], "msg": "Field required",
            "input": {"temperature": 0, "max_tokens": 512}}]}),
        json!({"error": "no such field"}),
        json!(null),
    ] {
        assert!(refused(&Manner::default(), &body).is_empty(), "{body}");
    }
}

#[test]
fn a_parameter_is_replaced_then_left_out() {
    let (usual, mut manner) = (Manner::default(), Manner::default());
    assert!(manner.is_usual());
    let said = manner.give_up(Parameter::MaxTokens, &usual, false).unwrap();
    assert_eq!(said, "max_completion_tokens is sent instead of max_tokens");
    assert_eq!(
        manner.give_up(Parameter::MaxTokens, &usual, false),
        None,
        "another question has found it out"
    );
    let mut request = json!({});
    manner.fill(&mut request, 512);
    assert_eq!(
        request,
        json!({"max_completion_tokens": 512, "temperature": 0, "stream": false, "response_format": {"type": "json_object"}})
    );
    // The replacement is refused too.
    let body = openai("Unknown parameter: 'max_completion_tokens'", None, None);
    assert_eq!(refused(&manner, &body), [(Parameter::MaxTokens, false)]);
    let before = manner.clone();
    assert!(manner.give_up(Parameter::MaxTokens, &before, false).is_some());
    // Who asks for a schema gets one; who says nothing of one does not.
    let asks = json!({"error": "'response_format.type' must be 'json_schema' or 'text'"});
    assert_eq!(refused(&manner, &asks), [(Parameter::ResponseFormat, false)]);
    let no = openai("response_format is not supported", None, None);
    assert_eq!(refused(&manner, &no), [(Parameter::ResponseFormat, true)]);
    let before = manner.clone();
    assert!(
        manner
            .give_up(Parameter::ResponseFormat, &before, false)
            .is_some()
    );
    manner.raised_to = Some(2048);
    assert_eq!(
        manner.differences(),
        [
            "without max_tokens",
            "with response_format of the type json_schema instead of response_format",
            "with room for 2048 tokens"
        ]
    );
    let text = serde_json::to_string(&manner).unwrap();
    assert_eq!(
        text,
        r#"{"max_tokens":"left_out","response_format":"replaced","raised_to":2048}"#
    );
    assert_eq!(serde_json::from_str::<Manner>(&text).unwrap(), manner);
}

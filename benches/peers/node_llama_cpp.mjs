// Prefill and decode of llama.cpp on a GGUF file through npm's node-llama-cpp, whose package holds a built Vulkan back end.
//
//     npm install --ignore-scripts node-llama-cpp@3.22.1
//     node node_llama_cpp.mjs --model smollm2.gguf --output vulkan.jsonl
//     node node_llama_cpp.mjs --model smollm2.gguf --cpu --output cpu.jsonl
//
// peers.sh does this. With a software driver set VK_DRIVER_FILES and GGML_VK_VISIBLE_DEVICES=0, or
// llama.cpp takes the CPU silently. A run that reports no GPU is refused.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import {parseArgs} from "node:util";
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const {values: args} = parseArgs({options: {
    model: {type: "string"},
    cpu: {type: "boolean", default: false},
    prefill: {type: "string", default: "64,512"},
    "decode-length": {type: "string", default: "32"},
    threads: {type: "string", default: String(os.cpus().length)},
    repetitions: {type: "string", default: "5"},
    output: {type: "string"},
}});
if (!args.model) throw new Error("--model FILE.gguf is needed");

// node-llama-cpp tests its binary in a child process, which it starts as process.execPath. Where a
// driver's runner started this process through a dynamic loader, that is the loader and no node. A
// script that repeats the whole command stands in.
function startChildrenAsThisProcessWas() {
    if (!/^ld[-.]/.test(path.basename(process.execPath))) return;
    const words = fs.readFileSync("/proc/self/cmdline", "utf8").split("\0");
    const script = words.findIndex((word) => path.resolve(word) === process.argv[1]);
    const command = words.slice(0, script - process.execArgv.length);
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), "peer-node-"));
    process.on("exit", () => fs.rmSync(directory, {recursive: true, force: true}));
    const quoted = command.map((word) => `'${word.replaceAll("'", "'\\''")}'`);
    process.execPath = path.join(directory, "node");
    fs.writeFileSync(process.execPath, `#!/bin/sh\nexec ${quoted.join(" ")} "$@"\n`, {mode: 0o755});
}
startChildrenAsThisProcessWas();

const llama = await getLlama({gpu: args.cpu ? false : "vulkan", build: "never", logLevel: LlamaLogLevel.error});
const devices = args.cpu ? [] : await llama.getGpuDeviceNames();
if (!args.cpu && devices.length === 0) throw new Error("llama.cpp sees no Vulkan device (see the top of this file)");
const model = await llama.loadModel({modelPath: args.model, gpuLayers: args.cpu ? 0 : "max", useMmap: true});
const lengths = args.prefill.split(",").map(Number);
const longest = Math.max(...lengths);
const context = await model.createContext({
    sequences: 1, contextSize: longest + 64, batchSize: longest, threads: Number(args.threads), flashAttention: false,
});
const sequence = context.getSequence();
const rows = [];

// Evaluates `tokens` from an empty context and draws `count` tokens (greedily), the first from the prompt's last row.
async function run(tokens, count) {
    await sequence.clearHistory();
    const begun = performance.now();
    let drawn = 0;
    for await (const _ of sequence.evaluate(tokens, {temperature: 0, yieldEogToken: true})) {
        drawn++;
        if (drawn === count) break;
    }
    if (drawn !== count) throw new Error(`${drawn} tokens were drawn, not ${count}`);
    return (performance.now() - begun) / 1000;
}

async function measure(test, variant, amount, work) {
    await work();
    const samples = [];
    for (let i = 0; i < Number(args.repetitions); i++) samples.push(amount / await work());
    const sorted = [...samples].sort((a, b) => a - b);
    const mean = samples.reduce((a, b) => a + b, 0) / samples.length;
    const squares = samples.reduce((a, b) => a + (b - mean) ** 2, 0);
    const middle = sorted.length >> 1;
    rows.push({
        peer: "llama.cpp", backend: args.cpu ? "CPU" : `Vulkan ${devices[0]}`, model: path.basename(args.model), dtype: "",
        test, variant, unit: "tok/s", value: sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2,
        deviation: samples.length < 2 ? 0 : Math.sqrt(squares / (samples.length - 1)), higher_is_better: true, samples,
    });
}

for (const length of lengths) {
    const prompt = Array.from({length}, (_, i) => (i * 7919 + 11) % 40000 + 100);
    await measure(`pp${length}`, "", length, () => run(prompt, 1));
}
const decode = Number(args["decode-length"]);
await measure(`tg${decode}`, "batch 1", decode, () => run([3], decode));
const text = rows.map((r) => JSON.stringify(r) + "\n").join("");
if (args.output) fs.writeFileSync(args.output, text); else process.stdout.write(text);
await llama.dispose();

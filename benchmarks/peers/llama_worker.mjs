// llama.cpp as a peer: answers "decode this prompt with that setting" over a pipe, one JSON object a line.
//
// It is run from the folder that holds node_modules. The protocol is that of serve.py.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";
import {createInterface} from "node:readline";
import path from "node:path";

const home = createRequire(path.join(process.cwd(), "package.json"));
const {
    getLlama, LlamaLogLevel, DraftSequenceTokenPredictor, InputLookupTokenPredictor
} = await import(pathToFileURL(home.resolve("node-llama-cpp")));

const say = (answer) => process.stdout.write(JSON.stringify(answer) + "\n");
const models = {};
const sequences = new Map();
let asked = null;
let llama = null;

async function load(options) {
    asked = options;
    llama = await getLlama({
        gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: options.threads,
        logger: (_, text) => process.stderr.write(text)
    });
    for (const role of ["target", "draft"])
        if (options[role] != null)
            models[role] = await llama.loadModel({modelPath: options[role]});
    return {version: "llama.cpp " + llama.llamaCppRelease.release, threads: options.threads};
}

const context = (role) => models[role].createContext({
    contextSize: asked.context,
    threads: {ideal: asked.threads, min: asked.threads},
    batchSize: 512
});

// A predictor belongs to its sequence, so each setting has contexts of its own; they are small.
async function sequence(setting) {
    const key = JSON.stringify(setting);
    if (!sequences.has(key)) {
        let tokenPredictor;
        if (setting.mode === "draft")
            tokenPredictor = new DraftSequenceTokenPredictor((await context("draft")).getSequence(), {
                minTokens: setting.min ?? setting.max,
                maxTokens: setting.max,
                minConfidence: setting.confidence
            });
        else if (setting.mode === "lookup")
            tokenPredictor = new InputLookupTokenPredictor({
                predictionLength: {minimum: 0, maximum: setting.max}
            });
        sequences.set(key, (await context("target")).getSequence({tokenPredictor}));
    }
    return sequences.get(key);
}

async function decode({prompt, setting, max_new_tokens: limit}) {
    const own = await sequence(setting);
    await own.clearHistory();
    const tokens = [];
    let first = null;
    const began = performance.now();
    // Without a penalty unless one is asked for.
    for await (const token of own.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        first ??= performance.now() - began;
        tokens.push(token);
        if (tokens.length >= limit || models.target.isEogToken(token))
            break;
    }
    const seconds = (performance.now() - began) / 1000;
    const found = own.tokenPredictions;
    return {
        tokens, seconds, first_seconds: first / 1000,
        drafted: found.validated + found.refuted, accepted: found.validated
    };
}

for await (const line of createInterface({input: process.stdin})) {
    const request = JSON.parse(line);
    try {
        say(request.load ? {ready: await load(request.load)} : await decode(request));
    } catch (error) {
        say({error: String(error?.stack ?? error).slice(0, 2000)});
    }
}
process.exit(0);

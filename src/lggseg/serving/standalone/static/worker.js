// The network, in a thread of its own: ONNX Runtime Web on the slices that the page sends.

let session = null;

async function start({ model, wasm, loader }) {
  ort.env.wasm.numThreads = 1; // several would need a server's headers
  ort.env.wasm.wasmBinary = wasm;
  const url = URL.createObjectURL(new Blob([loader], { type: "text/javascript" }));
  ort.env.wasm.wasmPaths = { mjs: url };
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
}

async function run({ image, dims, background, scale }) {
  const shape = [1, dims[1]];
  const inputs = [
    new ort.Tensor("uint8", image, dims),
    new ort.Tensor("float32", background, shape),
    new ort.Tensor("float32", scale, shape),
  ];
  // By position: version 0.1 called the second and third `air` and `contrast`.
  const feeds = Object.fromEntries(session.inputNames.map((name, i) => [name, inputs[i]]));
  const { probability } = await session.run(feeds);
  return probability.data.slice();
}

onmessage = async ({ data }) => {
  try {
    const answer = data.start ? await start(data.start) : await run(data.run);
    postMessage({ number: data.number, answer });
  } catch (error) {
    postMessage({ number: data.number, error: String(error?.message ?? error) });
  }
};

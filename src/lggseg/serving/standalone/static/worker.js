// The network, in a thread of its own: ONNX Runtime Web on the slices that the page sends.

let session = null;

async function start({ model, wasm, loader }) {
  ort.env.wasm.numThreads = 1; // several would need a server's headers
  ort.env.wasm.wasmBinary = wasm;
  const url = URL.createObjectURL(new Blob([loader], { type: "text/javascript" }));
  ort.env.wasm.wasmPaths = { mjs: url };
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
}

async function run({ image, dims, air, contrast }) {
  const width = dims[1];
  const feeds = {
    image: new ort.Tensor("uint8", image, dims),
    air: new ort.Tensor("float32", air, [1, width]),
    contrast: new ort.Tensor("float32", contrast, [1, width]),
  };
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

// The network, in a thread of its own: ONNX Runtime Web on the slices that the page sends, by
// WebAssembly, or by WebGPU where the page found a graphics card.

const sessions = {};

// Answers which of the two to take.
async function start({ model, wasm, loader, graphics }) {
  ort.env.wasm.numThreads = 1; // several would need a server's headers
  ort.env.wasm.wasmBinary = wasm;
  const url = URL.createObjectURL(new Blob([loader], { type: "text/javascript" }));
  ort.env.wasm.wasmPaths = { mjs: url };
  const create = (by) => ort.InferenceSession.create(model, { executionProviders: [by], logSeverityLevel: 3 });
  sessions.wasm = await create("wasm");
  if (graphics) sessions.webgpu = await create("webgpu").catch(() => null);
  return sessions.webgpu ? "webgpu" : "wasm";
}

async function run({ image, dims, background, scale, by }) {
  const shape = [1, dims[1]], session = sessions[by];
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

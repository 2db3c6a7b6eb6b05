//! Pipelines, each distinct shader compiled once. While a model is loaded they compile beside its
//! upload: natively a thread each, in a page all are asked for before any answer is awaited. Owns that,
//! and nothing about what a kernel is.

use crate::error::{Error, Result};
use std::collections::HashMap;
#[cfg(not(target_arch = "wasm32"))]
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

/// A pipeline that may still be compiling; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    compiled: Arc<OnceLock<Compiled>>,
    pub layout: wgpu::BindGroupLayout,
}

type Compiled = std::result::Result<wgpu::ComputePipeline, String>;

impl Pipeline {
    /// Waits for it.
    ///
    /// # Panics
    /// If it did not compile, which [`Pipelines::get`] or [`Pipelines::finish`] has reported.
    pub fn wait(&self) -> &wgpu::ComputePipeline {
        match self.compiled.wait() {
            Ok(pipeline) => pipeline,
            Err(e) => panic!("a kernel that does not compile is used: {e}"),
        }
    }
}

/// All pipelines of a model, by their complete WGSL.
#[derive(Debug, Default)]
pub(super) struct Pipelines {
    made: HashMap<String, (&'static str, Pipeline)>,
    /// Whether [`Pipelines::get`] does not wait for what it asks for.
    is_ahead: bool,
    /// Answers that nobody has awaited.
    #[cfg(target_arch = "wasm32")]
    unheard: Vec<(&'static str, Answer)>,
}

/// What the browser will say about a pipeline.
#[cfg(target_arch = "wasm32")]
struct Answer(std::pin::Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>);

#[cfg(target_arch = "wasm32")]
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

impl Pipelines {
    /// Lets [`Pipelines::get`] go on without waiting, until [`Pipelines::finish`].
    pub fn compile_ahead(&mut self) {
        self.is_ahead = true;
    }

    /// Waits for everything that was asked for.
    ///
    /// # Errors
    /// [`Error::Gpu`] with the name of a kernel that does not compile on this device.
    pub async fn finish(&mut self) -> Result<()> {
        self.is_ahead = false;
        #[cfg(target_arch = "wasm32")]
        for (name, answer) in self.unheard.drain(..) {
            if let Some(e) = answer.0.await {
                return Err(refused(name, &e.to_string()));
            }
        }
        for (name, pipeline) in self.made.values() {
            if let Err(e) = pipeline.compiled.wait() {
                return Err(refused(name, e));
            }
        }
        Ok(())
    }

    /// The pipeline of this source with these bindings, compiled now unless it is there.
    ///
    /// # Errors
    /// As [`Pipelines::finish`], unless it is not waited for.
    pub async fn get(
        &mut self,
        device: &wgpu::Device,
        name: &'static str,
        source: String,
        bindings: &[wgpu::BindGroupLayoutEntry],
    ) -> Result<Pipeline> {
        if let Some((_, pipeline)) = self.made.get(&source) {
            return Ok(pipeline.clone());
        }
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(name),
            entries: bindings,
        });
        let compiled = Arc::new(OnceLock::new());
        let pipeline = Pipeline { compiled: compiled.clone(), layout: layout.clone() };
        match self.is_ahead {
            false => {
                let (made, error) = compile(device, name, &source, &layout);
                if let Some(e) = error.await {
                    return Err(refused(name, &e.to_string()));
                }
                // nobody else has it yet
                let _ = compiled.set(Ok(made));
            }
            #[cfg(target_arch = "wasm32")]
            true => {
                let (made, error) = compile(device, name, &source, &layout);
                let _ = compiled.set(Ok(made));
                self.unheard.push((name, Answer(Box::pin(error))));
            }
            #[cfg(not(target_arch = "wasm32"))]
            true => {
                let (device, source) = (device.clone(), source.clone());
                let compile = move || {
                    // whatever happens, nobody may wait for ever
                    let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
                        let (made, error) = compile(&device, name, &source, &layout);
                        pollster::block_on(error).map_or(Ok(made), |e| Err(e.to_string()))
                    }));
                    let _ =
                        compiled.set(result.unwrap_or_else(|_| Err("the compiler ended".into())));
                };
                let thread = std::thread::Builder::new().name(format!("compiles {name}"));
                thread.spawn(compile).map_err(|e| refused(name, &e.to_string()))?;
            }
        }
        self.made.insert(source, (name, pipeline.clone()));
        Ok(pipeline)
    }
}

fn refused(name: &str, e: &str) -> Error {
    Error::Gpu { reason: format!("kernel {name} does not compile here: {e}") }
}

/// Asks for a pipeline, and what there is to say about it. Error scopes belong to a thread.
fn compile(
    device: &wgpu::Device,
    name: &str,
    source: &str,
    layout: &wgpu::BindGroupLayout,
) -> (wgpu::ComputePipeline, impl Future<Output = Option<wgpu::Error>> + use<>) {
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(name),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(name),
        bind_group_layouts: &[Some(layout)],
        ..Default::default()
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(name),
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            // every workgroup variable is written before it is read
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    });
    (pipeline, scope.pop())
}

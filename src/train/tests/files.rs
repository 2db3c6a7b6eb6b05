//! What a training begins with and leaves behind: initial values, adapter files, log, curve; and the
//! learning rate in between.

use super::*;
use crate::weights::torch::TorchFile;

#[test]
fn what_was_trained_is_read_again_as_an_adapter() {
    let json = r#"{"rank": 3, "alpha": 0.1, "num_state_heads": 2, "couple_lambda": false,
        "state_update_mode": "lambda_outside", "target_layers": [2, 0], "delta_heads": "q,o",
        "delta_o_rmsnorm": true, "trainable_delta_scale": true, "delta_scale_max": 0.3,
        "delta_scale_init": 0.1, "memory_write_granularity": "sentence_mean"}"#;
    let tiny = Tiny::new(json);
    let folder = tempfile::tempdir().unwrap();
    write_adapter(folder.path(), &tiny.delta, &tiny.parameters).unwrap();
    let adapter = Adapter::open(folder.path(), &tiny.config).unwrap();
    assert_eq!(adapter.config, tiny.delta);
    let read = AdapterParameters::read(&tiny.config, &adapter.config, adapter.tensors.as_ref());
    assert_eq!(read.unwrap(), tiny.parameters);
    let torch = TorchFile::open(folder.path().join("delta_mem_adapter.pt")).unwrap();
    let read = AdapterParameters::read(&tiny.config, &tiny.delta, &torch);
    assert_eq!(read.unwrap(), tiny.parameters);
}

#[test]
fn fresh_parameters_are_those_of_the_reference() {
    let tiny = Tiny::new(r#"{"rank": 4, "delta_heads": "q,o"}"#);
    let weights = RecipeSource::backbone(&tiny.config, 3);
    let init = Initialization { base_slice_width: 3, ..Initialization::default() };
    let fresh = AdapterParameters::init(&tiny.config, &tiny.delta, &weights, &init).unwrap();
    let read = |name: &str| fresh.read_all(&format!("model.layers.1.self_attn.{name}")).unwrap();
    assert_eq!(read("beta_bias"), [-1.5; 4]);
    assert_eq!(read("beta_proj"), [0.0; 40]);
    assert_eq!(read("delta_k_proj"), [0.0; 16]);
    let bound = 1.0 / 10f32.sqrt();
    let q = read("memory_q_proj");
    assert!(q.iter().all(|x| x.abs() <= bound) && q.iter().any(|x| x.abs() > 0.8 * bound));
    let o = read("delta_o_proj");
    for column in 0..4 {
        let norm: f32 = o.chunks(4).map(|row| row[column] * row[column]).sum::<f32>().sqrt();
        assert!((norm - if column < 3 { 0.05 } else { 0.0 }).abs() < 1e-6);
    }
}

#[test]
fn a_log_forgets_the_steps_that_are_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let step = |step| StepReport { step, loss: 1.5, gradient_norm: 0.1, learning_rate: 1e-3 };
    let evaluation = Evaluation { loss: 2.0, token_accuracy: 0.5, exact: 0.25, n_episodes: 8 };
    let mut log = TrainingLog::open(&path, 0).unwrap();
    for n in 1..=4 {
        log.push(LogLine::Step(step(n))).unwrap();
        log.push(LogLine::Evaluation { step: n, evaluation: evaluation.clone() }).unwrap();
    }
    let mut cut = std::fs::read(&path).unwrap();
    cut.extend(b"{\"step\": 5, \"lo");
    std::fs::write(&path, cut).unwrap();
    let log = TrainingLog::open(&path, 2).unwrap();
    let curve = log.loss_curve();
    assert_eq!(curve.training, [(1, 1.5), (2, 1.5)]);
    assert_eq!(curve.evaluation, [(1, 2.0), (2, 2.0)]);
    assert_eq!(TrainingLog::open(&path, 0).unwrap().loss_curve(), LossCurve::default());
}

#[test]
fn initial_values_are_those_of_the_configuration() {
    let json = serde_json::json!({
        "beta_bias_init": -4.0, "output_init": "zero", "base_slice_ref_width": 2,
        "online_gain": 0.5, "delta_scale_init": 0.25,
    });
    let init = Initialization { lambda_bias: Some(3.0), ..Initialization::default() };
    let init = init.with_config(&json, "test").unwrap();
    assert_eq!((init.output, init.base_slice_width, init.online_gain), (OutputInit::Zero, 2, 0.5));
    let tiny = Tiny::new(r#"{"rank": 3, "couple_lambda": false, "trainable_delta_scale": true}"#);
    let weights = RecipeSource::backbone(&tiny.config, 3);
    let fresh = AdapterParameters::init(&tiny.config, &tiny.delta, &weights, &init).unwrap();
    let read = |name: &str| fresh.read_all(&format!("model.layers.0.self_attn.{name}")).unwrap();
    assert_eq!((read("beta_bias"), read("lambda_bias")), (vec![-4.0; 3], vec![3.0; 3]));
    assert!(read("delta_o_proj").iter().all(|&x| x == 0.0));
    // sigmoid(raw)·2 = 0.25
    assert!((read("delta_scale_raw")[0] - (0.125f32 / 0.875).ln()).abs() < 1e-6);
    for (key, bad) in [("output_init", "ones".into()), ("beta_bias_init", Value::from("low"))] {
        let error = init.clone().with_config(&serde_json::json!({ key: bad }), "test").unwrap_err();
        assert!(error.code() == "config" && error.to_string().contains(key), "{error}");
    }
}

#[test]
fn the_learning_rate_rises_then_falls_to_its_floor() {
    let rate = LearningRate { peak: 2.0, floor_share: 0.1, warmup_steps: 4, n_steps: 12 };
    let rates: Vec<f32> = (0..13).map(|step| rate.at(step)).collect();
    assert_eq!(rates[..5], [0.5, 1.0, 1.5, 2.0, 2.0]);
    assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]));
    assert!((rates[8] - 1.1).abs() < 1e-6 && (rates[12] - 0.2).abs() < 1e-6);
}

#[test]
fn a_loss_curve_has_its_points() {
    let training = vec![(0, 2.0), (5, f32::NAN), (10, 1.0)];
    let svg = loss_curve_svg(&LossCurve { training, evaluation: vec![(10, 1.5)] });
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("<circle").count(), 1);
    assert!(svg.contains("points=\"48.0,48.0 672.0,180.0\""), "{svg}");
}

"""What other training tools call the recipe's keys and values: data for hints. Knows no recipe.

Names of transformers' TrainingArguments, TRL, peft, Axolotl, LLaMA-Factory and Unsloth.
"""

from collections.abc import Mapping, Sequence

# (key of the recipe, why or how, names elsewhere); an item of a list is called NAME
KEYS: tuple[tuple[str, str, str], ...] = (
    ("name", "which names the folder runs/NAME; or --out FOLDER", "output_dir run_name save_dir wandb_name"),
    ("model.path", "", "model_name_or_path model_name base_model pretrained_model_name_or_path model_id"),
    ("model.revision", "", "model_revision revision_of_model"),
    ("model.dtype", "where auto computes in bf16 or float16 if the hardware is fast at it",
     "bf16 fp16 torch_dtype pure_bf16 bfloat16 float16 precision mixed_precision half"),
    ("model.device", "", "use_cpu no_cuda device_map cuda"),
    ("model.attention", "where auto packs examples, isolated, and takes the fastest kernel that is there",
     "packing sample_packing padding_free neat_packing pad_to_sequence_len pad_to_multiple_of eval_packing "
     "packing_strategy eval_sample_packing multipack_attn group_by_length attn_implementation flash_attention "
     "flash_attn use_flash_attention_2 sdp_attention xformers_attention"),
    ("template.borrow", "", "chat_template chat_template_path chat_template_jinja prompt_template prompt_style"),
    ("template.add_tokens", "", "special_tokens new_special_tokens additional_special_tokens add_special_tokens"),
    ("system", "", "system_prompt system_message default_system"),
    ("sources", "a list: {name: …, role: domain, path: FILE}",
     "dataset datasets data train_file train_data test_datasets"),
    ("sources.NAME.path", "", "data_files data_path data_dir dataset_path dataset_dir file files"),
    ("sources.NAME.hub", "", "dataset_name dataset_id hf_hub_url repo_id"),
    ("sources.NAME.config", "", "dataset_config dataset_config_name subset"),
    ("sources.NAME.split", "", "dataset_train_split dataset_split train_split"),
    ("sources.NAME.format", "", "type dataset_type formatting ds_type chat_format"),
    ("sources.NAME.question", "", "instruction prompt query input_column prompt_column field_instruction"),
    ("sources.NAME.context", "", "input input_text passage"),
    ("sources.NAME.answer", "", "output completion response target response_column field_output"),
    ("sources.NAME.messages", "", "conversations conversation field_messages messages_column"),
    ("sources.NAME.text", "", "dataset_text_field text_column field"),
    ("sources.NAME.holdout", "", "val_set_size val_size test_size test_split_size eval_dataset dataset_test_split"),
    ("sources.NAME.take", "", "max_samples max_train_samples num_samples shards"),
    ("mix.shares", "", "interleave_probs mix_strategy dataset_weights probabilities sampling_weights"),
    ("mix.seed", "", "shuffle shuffle_dataset shuffle_merged_datasets data_seed"),
    ("train.epochs", "", "num_train_epochs num_epochs n_epochs"),
    ("train.steps", "", "max_steps num_steps total_steps iters max_iters"),
    ("train.examples_per_step", "all examples of one optimizer step: batch × accumulation × devices",
     "batch_size per_device_train_batch_size train_batch_size micro_batch_size gradient_accumulation_steps "
     "global_batch_size effective_batch_size"),
    ("train.pack_tokens", "the token budget of one forward pass",
     "per_device_eval_batch_size eval_batch_size auto_find_batch_size eval_accumulation_steps"),
    ("train.max_tokens", "the longest row", "max_seq_length max_length max_seq_len sequence_len cutoff_len seq_len "
     "model_max_length block_size context_length"),
    ("train.too_long", "", "truncation truncation_mode truncation_side excess_length_strategy"),
    ("train.learning_rate", "", "lr lora_lr max_lr"),
    ("train.min_learning_rate", "", "min_lr cosine_min_lr_ratio lr_scheduler_kwargs"),
    ("train.schedule", "", "lr_scheduler_type lr_scheduler scheduler"),
    ("train.warmup", "a share of the steps (below 1) or their number", "warmup_steps warmup_ratio num_warmup_steps"),
    ("train.optimizer", "", "optim"),
    ("train.clip", "", "max_grad_norm gradient_clipping grad_clip gradient_clip_val"),
    ("train.loss_on", "", "train_on_inputs train_on_prompt completion_only_loss assistant_only_loss mask_history "
     "train_on_responses_only response_template roles_to_train"),
    ("train.checkpointing", "", "gradient_checkpointing use_gradient_checkpointing activation_checkpointing "
     "activation_offloading"),
    ("train.adapter", "lora, qlora, or {kind: lora, rank: 16}",
     "lora qlora peft use_peft peft_config lora_config finetuning_type load_in_4bit load_in_8bit quantization_bit "
     "quantization use_dora use_rslora"),
    ("train.adapter.rank", "", "r lora_r lora_rank"),
    ("train.adapter.alpha", "", "lora_alpha"),
    ("train.adapter.dropout", "", "lora_dropout"),
    ("train.adapter.targets", "", "target_modules lora_target_modules lora_target lora_target_linear"),
    ("train.eval_every", "", "eval_steps evals_per_epoch eval_strategy evaluation_strategy"),
    ("train.save_every", "", "save_steps saves_per_epoch save_strategy"),
    ("train.keep_checkpoints", "", "save_total_limit"),
    ("train.best_by", "", "load_best_model_at_end metric_for_best_model greater_is_better"),
    ("train.early_stopping.patience", "", "early_stopping_patience early_stopping_steps"),
    ("train.seed", "", "random_state random_seed"),
    ("train.report_to", "wandb, mlflow or trackio; TensorBoard's events are always written",
     "use_wandb wandb_project use_mlflow use_swanlab loggers"),
    ("ask.generate.max_new_tokens", "", "max_completion_length max_gen_length"),
    ("report.language", "", "lang locale"),
)  # fmt: skip
# what needs no key here
NO_KEY: tuple[tuple[str, str], ...] = (
    ("TensorBoard's events and metrics.jsonl are always written into the run's folder",
     "logging_dir plot_loss use_tensorboard logging_strategy"),
    ("every step is logged", "logging_steps logging_first_step"),
    ("a stopped run is resumed by --resume", "resume_from_checkpoint auto_resume_from_checkpoints"),
    ("a finished run is uploaded by `seodang push RUN REPO`", "push_to_hub hub_model_id hub_private_repo hub_strategy"),
    ("the hub is logged in to by `hf auth login`", "hub_token use_auth_token token hf_token"),
    ("several GPUs take part by `torchrun -m seodang tune RECIPE`, sharded where ACCELERATE_USE_FSDP=true",
     "deepspeed fsdp fsdp_config fsdp_version num_gpus num_processes ddp_find_unused_parameters ddp_timeout"),
    ("it is chosen by the hardware", "torch_compile use_liger_kernel tf32 enable_liger_kernel use_unsloth"),
    ("supervised tokens are always found by the template", "do_train do_eval stage"),
    ("prepared rows are always cached", "overwrite_cache dataset_prepared_path preprocessing_num_workers "
     "dataset_num_proc dataloader_num_workers streaming"),
    ("the run's folder must be new, or is named by --out", "overwrite_output_dir"),
    ("seodang does not offer it", "neftune_noise_alpha label_smoothing_factor lora_modules_to_save modules_to_save "
     "rl reward_model ref_model beta"),
)  # fmt: skip
# value elsewhere → value here, where the key takes it
VALUES: Mapping[str, str] = {
    **dict.fromkeys(("fp16", "half", "16"), "float16"),
    **dict.fromkeys(("bf16", "bfloat"), "bfloat16"),
    **dict.fromkeys(("fp32", "float", "32"), "float32"),
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf", "adam"), "adamw"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw"), "paged_adamw_8bit"),
    "constant_with_warmup": "constant",
    "cosine_with_min_lr": "cosine",
    **dict.fromkeys(("true", "unsloth"), "full"),
    "false": "none",
    "truncate": "cut_question",
    **dict.fromkeys(("flash_attention_2", "flash_attention_3", "sdpa", "flex_attention", "eager"), "auto"),
    **dict.fromkeys(("chat", "chatml", "conversational", "conversation", "chat_template", "openai"), "messages"),
    **dict.fromkeys(("csv", "json", "jsonl", "parquet"), "auto"),
    **dict.fromkeys(("assistant", "assistants", "completion", "completions", "responses"), "answers"),
    **dict.fromkeys(("korean", "kr", "ko-kr"), "ko"),
    **dict.fromkeys(("english", "en-us"), "en"),
}
_KEY_OF = {name: (key, why) for key, why, names in KEYS for name in names.split()}
_NO_KEY_FOR = {name: why for why, names in NO_KEY for name in names.split()}


def key_for(name: str) -> tuple[str, str] | None:
    """The recipe's key for what another tool calls `name`, and a remark that may be empty."""
    return _KEY_OF.get(_plain(name))


def no_key_for(name: str) -> str | None:
    """Why what another tool calls `name` needs no key here."""
    return _NO_KEY_FOR.get(_plain(name))


def value_for(value: object, choices: Sequence[str]) -> str | None:
    """The one of `choices` that another tool calls `value`."""
    here = VALUES.get(str(value).lower())
    return here if here in choices else None


def _plain(name: str) -> str:
    return name.strip("-").replace("-", "_").lower()

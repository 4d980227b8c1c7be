"""The table of methods: 53 papers, and `solvers`, a claim of our own.

A method's own change fills in its entry point ("module:object") and its test file; nothing here imports anything.
"""

from dataclasses import dataclass
from typing import final

__all__ = ["METHODS", "Method"]


@final
@dataclass(frozen=True)
class Method:
    """A method of the library, built or planned.

    Args:
        slug: Its name wherever a reader would look for the paper.
        title: Of the paper.
        year: Of the paper's venue, else of its preprint.
        arxiv: Number of the preprint; empty for none.
        room: Where it lives.
        entry: "module:object" that a user calls, or the module that is planned.
        tests: Its test file below tests/; empty while there is none.
    """

    slug: str
    title: str
    year: int
    arxiv: str
    room: str
    entry: str
    tests: str = ""

    @property
    def paper(self) -> str:
        """Where to read it; empty for a claim of our own."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


# fmt: off
METHODS: tuple[Method, ...] = (
    Method("principles", "The Principles of Diffusion Models",
           2025, "2510.21890", "core", "rheos.core.field:Field", "claims/test_principles.py"),
    Method("sparse_ot", "Sparsity-Constrained Optimal Transport", 2023, "2209.15466", "core", "rheos.core.transport"),
    Method("hidream", "HiDream-I1: A High-Efficient Image Generative Foundation Model with Sparse Diffusion "
           "Transformer", 2025, "2505.22705", "nets", "rheos.nets.mmdit"),
    Method("dualfast", "DualFast: Dual-Speedup Framework for Fast Sampling of Diffusion Models",
           2025, "2506.13058", "sample", "rheos.sample.dualfast:DualFast", "sample/test_dualfast.py"),
    Method("solvers", "Numerical samplers for flows",
           2026, "", "sample", "rheos.sample.methods:SOLVERS", "sample/test_order.py"),
    Method("arflow", "ARFlow: Autoregressive Flow with Hybrid Linear Attention",
           2025, "2501.16085", "train", "rheos.train.arflow"),
    Method("bfm", "Blockwise Flow Matching: Improving Flow Matching Models For Efficient High-Quality Generation",
           2025, "2510.21167", "train", "rheos.train.bfm"),
    Method("crossflow", "Flowing from Words to Pixels: A Framework for Cross-Modality Evolution",
           2025, "2412.15213", "train", "rheos.train.crossflow:CrossFlow", "train/test_crossflow.py"),
    Method("dfm", "Improving Progressive Generation with Decomposable Flow Matching",
           2025, "2506.19839", "train", "rheos.train.dfm"),
    Method("lfm", "Flow Matching in Latent Space", 2023, "2307.08698", "train", "rheos.train.lfm:LatentFlow",
           "train/test_lfm.py"),
    Method("symmflow", "Symmetrical Flow Matching: Unified Image Generation, Segmentation, and Classification "
           "with Score-Based Generative Models", 2026, "2506.10634", "train", "rheos.train.symmflow:SymmFlow",
           "train/test_symmflow.py"),
    Method("wcfm", "Weighted Conditional Flow Matching",
           2025, "2507.22270", "train", "rheos.core.gibbs:Gibbs", "core/test_gibbs.py"),
    Method("boss", "Bellman Optimal Step-size Straightening of Flow-Matching Models",
           2024, "2312.16414", "distill", "rheos.distill.boss:boss", "distill/test_boss.py"),
    Method("instaflow", "InstaFlow: One Step is Enough for High-Quality Diffusion-Based Text-to-Image Generation",
           2024, "2309.06380", "distill", "rheos.distill.instaflow:instaflow", "distill/test_instaflow.py"),
    Method("mdt_dist", "Few-step Flow for 3D Generation via Marginal-Data Transport Distillation",
           2026, "2509.04406", "distill", "rheos.distill.mdt_dist:mdt_dist", "distill/test_mdt_dist.py"),
    Method("rfpp", "Improving the Training of Rectified Flows",
           2024, "2405.20320", "distill", "rheos.distill.rfpp:rfpp", "distill/test_rfpp.py"),
    Method("slimflow", "SlimFlow: Training Smaller One-Step Diffusion Models with Rectified Flow",
           2024, "2407.12718", "distill", "rheos.distill.slimflow:slimflow", "distill/test_slimflow.py"),
    Method("splitmeanflow", "SplitMeanFlow: Interval Splitting Consistency in Few-Step Generative Modeling",
           2025, "2507.16884", "distill", "rheos.distill.splitmeanflow:splitmeanflow",
           "distill/test_splitmeanflow.py"),
    Method("flowchef", "Steering Rectified Flow Models in the Vector Field for Controlled Image Generation",
           2025, "2412.00100", "guide", "rheos.guide.flowchef"),
    Method("flowopt", "FlowOpt: Fast Optimization Through Whole Flow Processes for Training-Free Editing",
           2025, "2510.22010", "guide", "rheos.guide.flowopt"),
    Method("worldforge", "WorldForge: Unlocking Emergent 3D/4D Generation in Video Diffusion Model via "
           "Training-Free Guidance", 2026, "2509.15130", "guide", "rheos.guide.worldforge"),
    Method("contextflow", "ContextFlow: Training-Free Video Object Editing via Adaptive Context Enrichment",
           2026, "2509.17818", "edit", "rheos.edit.contextflow"),
    Method("five_bench", "FiVE: A Fine-grained Video Editing Benchmark for Evaluating Emerging Diffusion and "
           "Rectified Flow Models", 2025, "2503.13684", "edit", "rheos.edit.five_bench"),
    Method("flowdirector", "FlowDirector: Training-Free Flow Steering for Precise Text-to-Video Editing",
           2025, "2506.05046", "edit", "rheos.edit.flowdirector"),
    Method("flowv2v", "Consistent Video Editing as Flow-Driven Image-to-Video Generation",
           2025, "2506.07713", "edit", "rheos.edit.flowv2v"),
    Method("flowvid", "FlowVid: Taming Imperfect Optical Flows for Consistent Video-to-Video Synthesis",
           2024, "2312.17681", "edit", "rheos.edit.flowvid"),
    Method("shape_for_motion", "Shape-for-Motion: Precise and Consistent Video Editing with 3D Proxy",
           2025, "2506.22432", "edit", "rheos.edit.shape_for_motion"),
    Method("acflow", "Fine-tuning Flow Matching Generative Models with Intermediate Feedback",
           2025, "2510.18072", "align", "rheos.align.acflow"),
    Method("reinflow", "ReinFlow: Fine-tuning Flow Matching Policy with Online Reinforcement Learning",
           2025, "2505.22094", "align", "rheos.align.reinflow"),
    Method("tempflow_grpo", "TempFlow-GRPO: When Timing Matters for GRPO in Flow Models",
           2025, "2508.04324", "align", "rheos.align.tempflow_grpo"),
    Method("videoalign", "Improving Video Generation with Human Feedback",
           2025, "2501.13918", "align", "rheos.align.videoalign"),
    Method("mogfn", "Multi-Objective GFlowNets", 2023, "2210.12765", "gfn", "rheos.gfn.mogfn"),
    Method("op_gfn", "Order-Preserving GFlowNets", 2024, "2310.00386", "gfn", "rheos.gfn.op_gfn"),
    Method("asyncflow", "AsyncFlow: An Asynchronous Streaming RL Framework for Efficient LLM Post-Training",
           2025, "2507.01663", "engine", "rheos.engine.asyncflow"),
    Method("dualparal", "Minute-Long Videos with Dual Parallelisms",
           2026, "2505.21070", "engine", "rheos.engine.dualparal"),
    Method("hybridflow", "HybridFlow: A Flexible and Efficient RLHF Framework",
           2025, "2409.19256", "engine", "rheos.engine.hybridflow"),
    Method("nanoflow", "NanoFlow: Towards Optimal Large Language Model Serving Throughput",
           2025, "2408.12757", "engine", "rheos.engine.nanoflow"),
    Method("oneflow", "OneFlow: Redesign the Distributed Deep Learning Framework from Scratch",
           2021, "2110.15032", "engine", "rheos.engine.oneflow"),
    Method("packet_spraying", "Challenging the Need for Packet Spraying in Large-Scale Distributed Training",
           2024, "2407.00550", "engine", "rheos.engine.packet_spraying"),
    Method("video_infinity", "Video-Infinity: Distributed Long Video Generation",
           2024, "2406.16260", "engine", "rheos.engine.video_infinity"),
    Method("aiflows", "Flows: Building Blocks of Reasoning and Collaborating AI",
           2023, "2308.01285", "domains", "rheos.domains.agents.aiflows"),
    Method("dipo", "DIPO: Dual-State Images Controlled Articulated Object Generation Powered by Diverse Data",
           2025, "2505.20460", "domains", "rheos.domains.shapes.dipo"),
    Method("dualdiff", "DualDiff+: Dual-Branch Diffusion for High-Fidelity Video Generation with Reward Guidance",
           2025, "2503.03689", "domains", "rheos.domains.driving.dualdiff"),
    Method("flowdrive", "FlowDrive: Energy Flow Field for End-to-End Autonomous Driving",
           2025, "2509.14303", "domains", "rheos.domains.driving.flowdrive"),
    Method("infnet", "INFNet: A Task-aware Information Flow Network for Large-Scale Recommendation Systems",
           2025, "2508.11565", "domains", "rheos.domains.ranking.infnet"),
    Method("medsegfactory", "MedSegFactory: Text-Guided Generation of Medical Image-Mask Pairs",
           2025, "2504.06897", "domains", "rheos.domains.medical.medsegfactory"),
    Method("mirror_sd", "Mirror Speculative Decoding: Breaking the Serial Barrier in LLM Inference",
           2025, "2510.13161", "domains", "rheos.domains.tokens.mirror_sd"),
    Method("mosaic_sdf", "Mosaic-SDF for 3D Generative Models",
           2024, "2312.09222", "domains", "rheos.domains.shapes.mosaic_sdf"),
    Method("mt_deeponet", "Synergistic Learning with Multi-Task DeepONet for Efficient PDE Problem Solving",
           2025, "2408.02198", "domains", "rheos.domains.operators.mt_deeponet"),
    Method("nautilus", "Nautilus: Locality-aware Autoencoder for Scalable Mesh Generation",
           2025, "2501.14317", "domains", "rheos.domains.shapes.nautilus"),
    Method("reqflow", "ReQFlow: Rectified Quaternion Flow for Efficient and High-Quality Protein Backbone Generation",
           2025, "2502.14637", "domains", "rheos.domains.protein.reqflow"),
    Method("stem_compression", "Spatiotemporal Entropy Model is All You Need for Learned Video Compression",
           2021, "2104.06083", "domains", "rheos.domains.video.stem_compression"),
    Method("tailor3d", "Tailor3D: Customized 3D Assets Editing and Generation with Dual-Side Images",
           2024, "2407.06191", "domains", "rheos.domains.shapes.tailor3d"),
    Method("videoflow", "VideoFlow: Exploiting Temporal Cues for Multi-frame Optical Flow Estimation",
           2023, "2303.08340", "domains", "rheos.domains.video.videoflow"),
)
# fmt: on

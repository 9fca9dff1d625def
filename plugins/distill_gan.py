"""Distillations with an adversary: critics of maps, and a discriminator of labels.

chain:
  - distill.gan: {teacher: "builtin:digits", training: {epochs: 12}}
"""

from detpress.distillation.options import GanOptions, KdganOptions
from detpress.plugins.distill import Distiller, Training


class GanConfig(GanOptions, Training):
    """The critics', and the training."""


class Gan(Distiller):
    """Draws what the student's heads take to what the teacher's take, as a critic at each head sees it.

    Wang, Hong, Wang and Yu, "GAN-Knowledge Distillation for One-Stage Object Detection", IEEE Access 8, 2020
    (arXiv:1906.08467). Its README, figures and logs are public (p517332051/GAN-Knowledge-Distillation-SSD), its code is
    not. A Wasserstein GAN: the critics minimise mean(D(teacher) - D(student)), their weights clipped to `clip`, by Adam
    with beta1 0.5; the student minimises mean(D(student)), and the detection loss of the same maps by the teacher's
    heads, which are held. The critic of a map of 16 x 16 has convolutions of 512 channels at 16, 8, 4 and 2, and one
    down to a number.

    What differs: there, the student has the teacher's head and no other; here it keeps its own, which learns from the
    labels as ever. Where channels differ, the maps go to the critics and the teacher's heads through a 1x1 convolution
    that is thrown away afterwards. A critic has as many halvings as its map needs, and the map's own width below 512.
    What could not be found out: the critics' kernels and activation (here 3x3, leaky ReLU of 0.2), how often they step
    (here once a step of the student), and what the cosine in one of the logs is (here there is none).
    """

    Config = GanConfig
    objective = "distill.gan"


class KdganConfig(KdganOptions, Training):
    """KDGAN's, and the training."""


class Kdgan(Distiller):
    """Student, teacher and a discriminator learn the classes of objects from each other.

    Wang, Zhang, Sun and Qi, "KDGAN: Knowledge Distillation with Generative Adversarial Networks", NeurIPS 2018, which
    is about the label of an image; its code (xiaojiew1/KDGAN, mdlcompr) was read. D learns to tell true labels (5 an
    object) from those that student and teacher draw (20 each); student and teacher are rewarded by D's probability for
    what they draw (25), the student's drawn from a Gumbel-softmax that cools from 10 to 0.1 by factors of 0.88; each
    imitates the other by 0.3 of the squared difference of logits and 0.7 of the true label's cross-entropy. alpha,
    beta, gamma and the learning rates are the code's for MNIST. Its temperature of 3 is no option: of a squared
    difference, the factor T^2 takes it out again.

    What differs: labels are the classes of objects, in the boxes that learn them by the detection loss, which stays.
    Teacher and D are copies of the last two convolutions of the teacher's heads, on what the held teacher gives them:
    the bundle is never changed, and three whole networks took over seven times a plain step. All three step on every
    batch instead of in turns of 20, 10 and 10 epochs. The reward is the paper's, for log softmax; the code's, which
    draws the logit of a label to the reward itself, would work against the sigmoids of the detection loss, as a right
    label's reward tends to 5 in 25. The code's factors of batch and training set are left out, which make the reward
    weigh a hundred times what the paper's alpha and beta say. The copies keep BatchNorm's statistics.
    """

    Config = KdganConfig
    objective = "distill.kdgan"

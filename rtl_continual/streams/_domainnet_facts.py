"""What is published about DomainNet: names, lists, sizes, checksums, results.

Sources: Peng et al. (2019), "Moment Matching for Multi-Source Domain Adaptation", and its download
page; sizes and SHA-256 hashes as TensorFlow Datasets (Apache-2.0) recorded them; the 126 classes of
Saito et al. (2019), "Semi-supervised Domain Adaptation via Minimax Entropy".
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CLASSES",
    "CLASSES_126",
    "CLEANED_COUNTS",
    "DOMAINS",
    "ORDERS",
    "ORIGINAL_TOTALS",
    "PUBLISHED_FILES",
    "PUBLISHED_GAPS",
    "RESULTS",
    "TSHIRT_REPAIR",
    "PublishedFile",
    "PublishedResult",
    "list_url",
]

BASE = "http://csr.bu.edu/ftp/visda/2019/multi-source"

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")

ORDERS = {
    "A": DOMAINS,
    "B": ("real", "quickdraw", "painting", "sketch", "infograph", "clipart"),
}
"""A: S-Prompts, CP-Prompt, SOYO, DUCT, E2-LoRA. B: KA-Prompt."""

CLEANED_COUNTS = {
    "clipart": (33_525, 14_604),
    "infograph": (36_023, 15_582),
    "painting": (50_416, 21_850),
    "quickdraw": (120_750, 51_750),
    "real": (120_906, 52_041),
    "sketch": (48_212, 20_916),
}
"""Training and test images of the cleaned lists."""

ORIGINAL_TOTALS = {
    "clipart": 48_837,
    "infograph": 53_201,
    "painting": 75_759,
    "quickdraw": 172_500,
    "real": 175_327,
    "sketch": 70_386,
}
"""Training and test images together, of the lists before duplicates were removed."""

PUBLISHED_GAPS = {
    ("painting", "train"): ("t-shirt",),
    ("painting", "test"): ("syringe",),
}
"""Classes that the cleaned lists leave out of a part."""

TSHIRT_REPAIR = b"painting/t-shirt/painting_328_000001.jpg"
"""The test image that becomes the one training image of its class (Zhou et al., 2025, DUCT)."""


@dataclass(frozen=True)
class PublishedFile:
    """A file of the publisher.

    Args:
        url: where it is.
        size: in bytes.
        sha256: of its content.
    """

    url: str
    size: int
    sha256: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FILES = _words("""
domainnet/txt/clipart_train.txt 1443819
    affdadf5f95a7583e6b98030a3d35007e2613ee4dd942393c5a705ec2b429312
domainnet/txt/clipart_test.txt 628917
    62c8e36aaba1c41ad9e249099739707220a44c08f167b37ef420f34a31628a6b
domainnet/txt/infograph_train.txt 1683098
    36b44cbd41a2915e0dc73b4f4be8862a6f3c220f93c8d63fb2439beeae3aefda
domainnet/txt/infograph_test.txt 728028
    413cfa54ac92e7e6b242f4f09fbd9c8ace85c4deaf3cb6c81ff6b68264460136
domainnet/txt/painting_train.txt 2241901
    f1da38d50a702fddf1329f85bc607d7a2abcae7e6aec75e1fd49cc1bd340d47b
domainnet/txt/painting_test.txt 971888
    11472b13b5188e09f06918b12eebb660588c97a20e43e268d9b02e3e37eb8f97
domainnet/txt/quickdraw_train.txt 5164600
    3a5edd3bc215772010eebc87f158707703dd7e48091d13b816af81326a9d1c0f
domainnet/txt/quickdraw_test.txt 2213400
    2a00a60650a453c65c356da748fec54084a197272137c440e7d52d08947357bf
domainnet/txt/real_train.txt 4440944
    19d483256d24aef19e581b65eda8333fd918aef3eb733fe499ff384120e3a289
domainnet/txt/real_test.txt 1911327
    2b3f75bcde309aeb5931292084b2162e936b5f189e3bb1ad716f0f74c460864c
domainnet/txt/sketch_train.txt 1960222
    72f4bc6afa5702a1ccba800d0053c1427de87439dfaf246dbc9a2e71abfec54f
domainnet/txt/sketch_test.txt 850581
    3fb48fca18c507c4321f007c3f62b308ec232ff6928cbfe2af64e76ec366e840
groundtruth/clipart.zip 1270909081
    f8f248a3e8bbc9868c523ae24e6601b4c2ad102afc60c0efeb4f3255df22354d
infograph.zip 4338659804
    891e14f476317e97b6f06d6498c11d0a5b8d0c8b57210765ed9beb072da611fa
groundtruth/painting.zip 3679366174
    fa47e6d405503ea0286cabd767f176bd30e988b63ddd7b9db16cf030c9770015
quickdraw.zip 459920701
    9f37df2a8c3733703dbb35ad9964202a65f675ca30137756457537536b485d84
real.zip 6062039589
    d7fe010b430c5b510f85d657d38c4a1924822695fabea4fef57bd00dba251d63
sketch.zip 2633992926
    23a7dbae7016b343e934399beaa8a68728fb5e570ebe2c71df9b75cf91c499fc
""")

PUBLISHED_FILES = {
    path.rsplit("/", 1)[-1]: PublishedFile(f"{BASE}/{path}", int(size), digest)
    for path, size, digest in zip(_FILES[::3], _FILES[1::3], _FILES[2::3], strict=True)
}
"""Image archives and cleaned lists, by file name."""


def list_url(domain: str, part: str, lists: str) -> str:
    """Where the publisher keeps a list.

    Args:
        domain: of :data:`DOMAINS`.
        part: ``train`` or ``test``.
        lists: ``cleaned`` or ``original``.
    """
    name = f"{domain}_{part}.txt"
    if lists == "cleaned":
        return PUBLISHED_FILES[name].url
    # The original lists of two domains lie with the later release of their labels.
    folder = "groundtruth/txt" if domain in ("clipart", "painting") else "txt"
    return f"{BASE}/{folder}/{name}"


CLASSES = _words(
    """
aircraft_carrier airplane alarm_clock ambulance angel animal_migration ant anvil apple arm
asparagus axe backpack banana bandage barn baseball baseball_bat basket basketball bat bathtub
beach bear beard bed bee belt bench bicycle binoculars bird birthday_cake blackberry blueberry
book boomerang bottlecap bowtie bracelet brain bread bridge broccoli broom bucket bulldozer bus
bush butterfly cactus cake calculator calendar camel camera camouflage campfire candle cannon
canoe car carrot castle cat ceiling_fan cello cell_phone chair chandelier church circle clarinet
clock cloud coffee_cup compass computer cookie cooler couch cow crab crayon crocodile crown
cruise_ship cup diamond dishwasher diving_board dog dolphin donut door dragon dresser drill drums
duck dumbbell ear elbow elephant envelope eraser eye eyeglasses face fan feather fence finger
fire_hydrant fireplace firetruck fish flamingo flashlight flip_flops floor_lamp flower
flying_saucer foot fork frog frying_pan garden garden_hose giraffe goatee golf_club grapes grass
guitar hamburger hammer hand harp hat headphones hedgehog helicopter helmet hexagon hockey_puck
hockey_stick horse hospital hot_air_balloon hot_dog hot_tub hourglass house house_plant hurricane
ice_cream jacket jail kangaroo key keyboard knee knife ladder lantern laptop leaf leg light_bulb
lighter lighthouse lightning line lion lipstick lobster lollipop mailbox map marker matches
megaphone mermaid microphone microwave monkey moon mosquito motorbike mountain mouse moustache
mouth mug mushroom nail necklace nose ocean octagon octopus onion oven owl paintbrush paint_can
palm_tree panda pants paper_clip parachute parrot passport peanut pear peas pencil penguin piano
pickup_truck picture_frame pig pillow pineapple pizza pliers police_car pond pool popsicle postcard
potato power_outlet purse rabbit raccoon radio rain rainbow rake remote_control rhinoceros rifle
river roller_coaster rollerskates sailboat sandwich saw saxophone school_bus scissors scorpion
screwdriver sea_turtle see_saw shark sheep shoe shorts shovel sink skateboard skull skyscraper
sleeping_bag smiley_face snail snake snorkel snowflake snowman soccer_ball sock speedboat spider
spoon spreadsheet square squiggle squirrel stairs star steak stereo stethoscope stitches stop_sign
stove strawberry streetlight string_bean submarine suitcase sun swan sweater swing_set sword
syringe table teapot teddy-bear telephone television tennis_racquet tent The_Eiffel_Tower
The_Great_Wall_of_China The_Mona_Lisa tiger toaster toe toilet tooth toothbrush toothpaste tornado
tractor traffic_light train tree triangle trombone truck trumpet t-shirt umbrella underwear van
vase violin washing_machine watermelon waterslide whale wheel windmill wine_bottle wine_glass
wristwatch yoga zebra zigzag
"""
)
"""Class names by label."""

CLASSES_126 = _words(
    """
aircraft_carrier alarm_clock ant anvil asparagus axe banana basket bathtub bear bee bird blackberry
blueberry bottlecap broccoli bus butterfly cactus cake calculator camel camera candle cannon canoe
carrot castle cat ceiling_fan cello cell_phone chair chandelier coffee_cup compass computer cow crab
crocodile cruise_ship dog dolphin dragon drums duck dumbbell elephant eyeglasses feather fence fish
flamingo flower foot fork frog giraffe goatee grapes guitar hammer helicopter helmet horse kangaroo
lantern laptop leaf lion lipstick lobster microphone monkey mosquito mouse mug mushroom onion panda
peanut pear peas pencil penguin pig pillow pineapple potato power_outlet purse rabbit raccoon
rhinoceros rifle saxophone screwdriver sea_turtle see_saw sheep shoe skateboard snake speedboat
spider squirrel strawberry streetlight string_bean submarine swan table teapot teddy-bear television
The_Eiffel_Tower The_Great_Wall_of_China tiger toe train truck umbrella vase watermelon whale zebra
"""
)
"""The classes of DomainNet-126, which goes with real, clipart, painting and sketch."""


@dataclass(frozen=True)
class PublishedResult:
    """A result after the last of the six domains, in percent.

    Args:
        method: its name.
        backbone: what is frozen or fine-tuned, and its pretraining.
        accuracy: over the test images of all domains after the last one.
        order: of :data:`ORDERS`; ``mean of 5`` averages five orders; ``None`` is not stated.
        domain_mean: the mean over domains, where it is known too.
    """

    method: str
    backbone: str
    accuracy: float
    order: str | None
    domain_mean: float | None = None


_VIT_1K = "ViT-B/16, ImageNet-21k then 1k"

RESULTS = (
    PublishedResult("CP-Prompt", "CLIP ViT-B/16", 73.35, "A", domain_mean=72.67),
    PublishedResult("E2-LoRA", _VIT_1K, 69.63, "A"),
    PublishedResult("DUCT", _VIT_1K, 67.01, "mean of 5"),
    PublishedResult("S-iPrompts", _VIT_1K, 60.46, None),
    PublishedResult("RanPAC", _VIT_1K, 54.80, None),
    PublishedResult("SimpleCIL", _VIT_1K, 44.08, None),
    PublishedResult("fine-tuning", _VIT_1K, 38.82, None),
    PublishedResult("KA-Prompt", "ViT-B/16, ImageNet-21k", 62.91, "B"),
)

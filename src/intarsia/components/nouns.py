"""Whether a caption's noun and a detector's label name the same kind of thing."""

from __future__ import annotations

from functools import cache

from intarsia.components.detections import COCO_80

SYNONYMS = {
    "person": "man, woman, boy, girl, child, kid, baby, toddler, infant, adult, lady, guy, fellow"
    ", gentleman, male, female, human, teenager, teen, youth, youngster, individual, player, team"
    ", teammate, athlete, runner, jogger, sprinter, racer, rider, biker, cyclist, bicyclist"
    ", motorcyclist, skier, snowboarder, skateboarder, skater, surfer, swimmer, diver, climber"
    ", hiker, camper, dancer, performer, musician, singer, guitarist, drummer, artist, worker"
    ", officer, policeman, cop, soldier, fireman, firefighter, fisherman, cowboy, clown, goalie"
    ", cheerleader, goalkeeper, pitcher, catcher, batter, quarterback, referee, umpire, coach"
    ", wrestler, boxer, golfer, gymnast, jockey, kayaker, rower, sailor, wakeboarder, spectator"
    ", waterskier, pedestrian, passenger, bystander, onlooker, tourist, customer, shopper, vendor"
    ", student, teacher, friend, couple, family, mother, father, mom, dad, parent, son, daughter"
    ", brother, sister, sibling, grandmother, grandfather, bride, groom, husband, wife, people"
    ", crowd, audience, chef, waiter, waitress, doctor, nurse, photographer, driver, pilot"
    ", opponent, competitor, contestant, protester",
    "bicycle": "bike, tricycle",
    "motorcycle": "motorbike, dirt bike, dirtbike, motor bike, motocross bike, scooter, moped",
    "car": "automobile, sedan, taxi, cab, suv, van, minivan, jeep, vehicle, convertible",
    "airplane": "plane, jet, aeroplane, aircraft, biplane",
    "bus": "minibus",
    "train": "locomotive, subway, tram",
    "truck": "pickup, lorry, van, fire engine, vehicle",
    "boat": "canoe, kayak, raft, rowboat, sailboat, speedboat, motorboat, ship, yacht, gondola"
    ", ferry, dinghy",
    "traffic light": "stoplight, traffic signal",
    "fire hydrant": "hydrant",
    "bird": "duck, goose, seagull, gull, pigeon, parrot, eagle, hawk, swan, heron, crane, pelican"
    ", owl, dove, crow, chicken, rooster",
    "cat": "kitten",
    "dog": "puppy, pup, doggy, hound, greyhound, poodle, terrier, retriever, labrador, lab, collie"
    ", dalmatian, beagle, bulldog, dachshund, husky, shepherd, rottweiler, pug, spaniel, corgi",
    "horse": "pony, foal, mare, stallion, colt, bronco",
    "sheep": "lamb, ram, ewe",
    "cow": "bull, calf, cattle, ox, steer",
    "backpack": "rucksack, knapsack, bag",
    "umbrella": "parasol",
    "handbag": "purse, bag",
    "tie": "necktie, bow tie",
    "suitcase": "luggage, baggage, bag",
    "frisbee": "disc, disk",
    "snowboard": "board, snow board",
    "sports ball": "ball, football, basketball, baseball, volleyball, softball",
    "baseball bat": "bat",
    "baseball glove": "glove, mitt",
    "skateboard": "board, skate board",
    "surfboard": "board, surf board, boogie board",
    "tennis racket": "racket, racquet",
    "wine glass": "glass",
    "cup": "mug, glass",
    "donut": "doughnut",
    "chair": "armchair, seat, stool",
    "couch": "sofa, loveseat",
    "potted plant": "plant, houseplant",
    "dining table": "table",
    "tv": "television, monitor",
    "laptop": "computer",
    "remote": "remote control",
    "cell phone": "phone, cellphone, telephone, smartphone",
    "oven": "stove",
    "refrigerator": "fridge",
    "teddy bear": "stuffed bear, teddy",
    "hair drier": "hair dryer, hairdryer",
}
"""Other words for labels of COCO-80; a word may stand for several labels."""

LIVING = frozenset("person bird cat dog horse sheep cow elephant bear zebra giraffe".split())

IRREGULAR = {
    "women": "woman",
    "men": "man",
    "children": "child",
    "buses": "bus",
    "knives": "knife",
    "calves": "calf",
    "geese": "goose",
    "mice": "mouse",
    "oxen": "ox",
    "skis": "ski",
    "taxis": "taxi",
}


def same_kind(noun: str, label: str) -> bool:
    """Whether a thing called ``noun`` in a caption is one of those that ``label`` stands for.

    Number does not count, words before the noun's last matter only where they make another word
    of it ("dirt bike"). The labels of COCO-80 match themselves and :data:`SYNONYMS`; all others
    are read as descriptions, whose last words must be the noun.

    >>> [same_kind("football players", "person"), same_kind("dog", "hot dog")]
    [True, False]
    >>> [same_kind("circles", "small red circle"), same_kind("dirt bike", "bicycle")]
    [True, False]
    """
    if fold(label) in LABELS:
        return fold(label) in _labels(fold(noun))
    return any(f" {fold(label)}".endswith(f" {name}") for name in _endings(fold(noun)))


def is_known(noun: str) -> bool:
    """Whether a noun stands for a label of COCO-80.

    >>> is_known("puppies"), is_known("trees")
    (True, False)
    """
    return bool(_labels(fold(noun)))


def is_living(noun: str) -> bool:
    """Whether a noun stands for a person or an animal of COCO-80.

    >>> is_living("two boys"), is_living("terrier"), is_living("shirt")
    (True, True, False)
    """
    return not LIVING.isdisjoint(_labels(fold(noun)))


@cache
def fold(text: str) -> str:
    """Lower case, single spaces and the last word in the singular.

    >>> [fold(text) for text in ("Two Dogs", "policewomen", "ponies", "benches", "glass", "skis")]
    ['two dog', 'policewoman', 'pony', 'bench', 'glass', 'ski']
    """
    *before, last = text.lower().split() or [""]
    return " ".join([*before, _singular(last)])


def _singular(word: str) -> str:
    for plural, singular in IRREGULAR.items():
        if word.endswith(plural):
            return word.removesuffix(plural) + singular
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 2:
        return word[:-1]
    return word


def _labels(noun: str) -> set[str]:
    """The folded labels that the longest known ending of a folded noun stands for."""
    return next((MEANINGS[end] for end in _endings(noun) if end in MEANINGS), set())


def _endings(noun: str) -> list[str]:
    """
    >>> _endings("race car driver")
    ['race car driver', 'car driver', 'driver']
    """
    words = noun.split()
    return [" ".join(words[start:]) for start in range(len(words))]


def _meanings() -> dict[str, set[str]]:
    meanings = {label: {label} for label in LABELS}
    for label, words in SYNONYMS.items():
        for word in words.split(", "):
            meanings.setdefault(fold(word), set()).add(fold(label))
    return meanings


LABELS = frozenset(fold(label) for label in COCO_80)
MEANINGS = _meanings()

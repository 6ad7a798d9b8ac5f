"""Words that tell captions' readings apart where grammar leaves them open."""

from __future__ import annotations

CLOTHES = frozenset(
    "shirt shirts t-shirt tshirt t-shirts top tops tee sweater sweaters sweatshirt sweatshirts vest"
    " vests jacket jackets coat coats parka blazer suit suits swimsuit swimsuits bikini bikinis"
    " bathingsuit trunks speedo speedos wetsuit wetsuits dress dresses gown gowns skirt skirts kilt"
    " kilts pants trousers jeans shorts overalls leggings tights stockings underwear pajamas robe"
    " robes uniform uniforms outfit outfits attire clothes clothing costume costumes gear hat hats"
    " cap caps helmet helmets hood beanie headband bandana scarf scarves mask masks glasses goggles"
    " sunglasses tie ties glove gloves mittens shoes boots sneakers sandals socks heels flops"
    " jersey jerseys apron cape hoodie blouse tank sleeves necklace jewelry backpack backpacks"
    " collar muzzle harness".split()
)
BODY = frozenset(
    "hair hairs beard mustache moustache mohawk face ponytail ponytails pigtails dreadlocks tattoo"
    " tattoos piercings ears eyes skin afro braids makeup".split()
)
PLACES = frozenset(
    "area areas street streets road roads sidewalk path trail park parks field fields yard backyard"
    " lawn garden beach ocean sea lake river creek stream pond pool water waters sand snow grass"
    " dirt mud ground floor court gym room kitchen bathroom bedroom restaurant store shop market"
    " mall city town village plaza square desert forest woods jungle hill hillside hills mountain"
    " mountains slope slopes track tracks arena stadium rink playground parade crowd fair festival"
    " station subway train bus bar office classroom school church house alley driveway porch patio"
    " deck dock pier shore shoreline coastline meadow pasture canyon valley air sky rain fountain"
    " stage intersection crosswalk lot tunnel countryside wilderness event race game match".split()
)
SEATS = frozenset("floor ground bench benches chair chairs couch sofa bed stool stools".split())
LIFELESS = CLOTHES | BODY | PLACES | SEATS

CLOTHES_DO = frozenset(
    "hanging saying reading covering showing sticking dangling matching blowing featuring bearing"
    " depicting displaying spelling touching flowing flying reaching trailing being".split()
)
PLACES_DO = frozenset(
    "surrounding overlooking stretching containing running falling splashing spraying crashing"
    " lining facing covering lying laying rising growing floating leading going coming hanging"
    " showing flowing reaching being".split()
)

BY_THE_LIVING = frozenset("followed accompanied chased watched pursued guarded".split())
DONE_TO_THE_LIVING = frozenset("assisted tackled held carried led".split())

LIVING_DO = frozenset(
    "wearing holding carrying smiling laughing looking watching playing eating drinking reading"
    " posing dancing singing talking walking jumping riding waving pointing cheering".split()
)

HOLDING = frozenset({"holding", "carrying"})
HOLDERS = frozenset(
    "cart carts sled wagon wagons trailer stroller basket baskets bucket box boxes bag bags tray"
    " plate bowl table shelf truck trucks car cars boat boats bus van vehicle raft".split()
)
"""What holds and carries, though it does not live."""

PERCEIVING = frozenset("watch watches watching see sees seeing cover covers covering".split())

VERBS = frozenset(
    "walk run jump leap play ride hug smile stare watch stand sit lie climb swim splash wrestle"
    " tussle fight race chase fetch throw toss pose laugh grin wave dance sing eat sleep look"
    " surf skate slide hike jog stroll march compete skateboard snowboard ski kayak perform bite"
    " chew lick sniff eye attack carry pull crawl kneel crouch squat bend lean kiss embrace play"
    " converse chat gather paddle row sled work wade trot gallop leap bark drool".split()
)
"""What captions' subjects do and a tagger may take for nouns."""
AMBIGUOUS_AT_THE_END = frozenset("rides races slides skis waves eyes rows sleds".split())


def third_person(verb: str) -> str:
    """
    >>> [third_person(verb) for verb in ("watch", "stare", "carry", "play")]
    ['watches', 'stares', 'carries', 'plays']
    """
    if verb.endswith(("ch", "sh", "s", "x")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def participle(verb: str) -> str:
    """
    >>> [participle(verb) for verb in ("dance", "run", "play", "ski", "lie", "hug")]
    ['dancing', 'running', 'playing', 'skiing', 'lying', 'hugging']
    """
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e"):
        return verb[:-1] + "ing"
    short = len(verb) > 2 and verb[-1] in "bgmnpt" and verb[-2] in "aiu"
    return verb + (verb[-1] if short and verb[-3] not in "aeiou" else "") + "ing"


VERBS_S = frozenset(map(third_person, VERBS))
VERBS_ING = frozenset(map(participle, VERBS))

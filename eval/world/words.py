"""The vocabulary of the seeded world: some 2,000 plain English words, sorted by the place they take in a sentence.

Every list is a tuple in a fixed order, because a draw is an index into it: to append a word changes the world that a
seed gives. The lists that carry meaning (`CUES`, `ASPECTS`, `PRAISE`, `BLAME`) hold no word twice, so a cue
tells its tag and an adjective its sentiment.

>>> CUES[9][:3]  # of the tag "fantasy"
('dragons', 'wizards', 'spells')
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# ---------------------------------------------------------------------------------------------------- films and tags

FAMILIES = (
    (0, 5, 9),  # sci-fi, dystopia, fantasy
    (2, 6, 10),  # comedy, dark comedy, romance
    (4, 8, 11),  # twist ending, psychology, thought-provoking
    (3, 12, 13),  # action, social commentary, violence
    (1, 7, 14),  # based on a book, classic, true story
)
"""The tags that compete with one another for the same film, as indices into
`persona.lamp.tasks.MOVIE_TAGS`."""

CUES = (
    _words("androids rockets galaxies lasers clones starships"),
    _words("chapters novels librarians paperbacks authors footnotes"),
    _words("pranks giggles clowns puns pratfalls jesters"),
    _words("chases stunts explosions helicopters getaways showdowns"),
    _words("impostors decoys doubles surprises reversals disguises"),
    _words("curfews rations checkpoints informers blackouts barricades"),
    _words("hearses coffins undertakers funerals wills obituaries"),
    _words("ballrooms carriages duchesses waltzes telegrams gramophones"),
    _words("memories nightmares therapists phobias obsessions dreams"),
    _words("dragons wizards spells goblins unicorns potions"),
    _words("kisses weddings sweethearts bouquets valentines serenades"),
    _words("riddles paradoxes dilemmas philosophers doubts arguments"),
    _words("strikes evictions landlords protests slums wages"),
    _words("gunfights knives brawls ambushes beatings vendettas"),
    _words("witnesses archives diaries survivors photographs trials"),
)
"""Per tag, the plural nouns that make a description fit it."""

SETTINGS = (
    _words("colony empire planet"),
    _words("bakery cruise boarding-house"),
    _words("clinic asylum seminar"),
    _words("harbour prison tenement"),
    _words("parish regiment estate"),
)
"""Per family, the places in which its films play."""

PEOPLE = _words(
    """
    baker sailor teacher nurse farmer painter lawyer cook driver miner tailor barber pilot singer dancer clerk guard
    hunter fisher mason joiner potter weaver brewer butcher grocer florist jeweller plumber welder printer editor poet
    drummer pianist fiddler juggler boxer runner swimmer cyclist rider gambler tinker smuggler thief spy judge sheriff
    deputy colonel sergeant corporal private captain bosun stoker porter waiter butler maid gardener shepherd drover
    miller thatcher cobbler glazier plasterer roofer surveyor banker broker trader pedlar auctioneer collector curator
    student tutor dean professor chemist botanist surgeon dentist midwife widow orphan twin cousin uncle aunt
    grandmother grandfather stranger drifter pilgrim monk nun vicar bishop mayor senator envoy consul courier
    ambassador archer acrobat apprentice astronaut athlete barmaid barrister beekeeper blacksmith bookbinder
    bricklayer caretaker carpenter cellist chauffeur choirboy coachman conductor conjurer cooper dancing-master
    decorator detective diver dockhand draughtsman economist electrician engraver explorer falconer ferryman fireman
    footman forester geologist goldsmith governess guide harpist harvester helmsman historian housekeeper innkeeper
    interpreter janitor jockey journalist landlady librarian lifeguard locksmith lumberjack magician matron mechanic
    messenger milkman navigator notary optician organist pharmacist physicist ploughman postman puppeteer ranger
    saddler sculptor secretary shoemaker signalman soloist stonecutter swordsmith tanner treasurer typist
    undersecretary usher ventriloquist verger watchman wheelwright woodcutter zoologist
    """
)
PERSON_ADJECTIVES = _words(
    """
    tired young lonely stubborn cheerful retired nervous clever clumsy daring shy proud gentle bitter curious faithful
    forgetful greedy hopeful humble jealous kindly lazy loyal lucky mild modest noisy patient pious polite restless
    rude silent sleepy sly stern timid vain wary wealthy poor weary wise witty brave bold calm careless charming cold
    cruel dreamy earnest fearless fierce frail frank grumpy handsome hardy hasty homesick merry moody penniless quiet
    ragged ruthless scruffy sensible sickly simple solemn spoiled strict tender thrifty tough troubled vengeful
    absent-minded adventurous aimless ambitious anxious artful awkward bashful blunt boastful candid cautious
    charitable cheeky contented courteous crafty cynical devoted diligent distrustful dutiful eager eccentric eloquent
    energetic envious fickle flustered frivolous gallant generous gifted gullible headstrong hesitant honest
    hot-headed idle impatient impulsive industrious inventive irritable jolly joyful light-hearted meek melancholy
    mischievous naive nosy obedient obstinate optimistic outspoken pensive playful practical prudent punctual
    resourceful sarcastic selfish sentimental serene shrewd sincere sober sociable spirited superstitious talkative
    thoughtful tireless trusting unlucky upright vigilant wistful zealous
    """
)
FILM_VERBS = _words(
    """
    finds meets fights saves hides follows inherits discovers leaves rebuilds guards betrays forgives remembers fears
    loves hates studies paints watches haunts escapes joins rescues robs visits deceives defends explores
    chronicles mourns trades abandons questions
    """
)

# ------------------------------------------------------------------------------------------------ reviews and scores

ASPECTS = (
    _words("battery charge power"),
    _words("display screen picture"),
    _words("sound speaker audio"),
    _words("price cost value"),
    _words("build design finish"),
    _words("service delivery support"),
)
"""What a review may touch; each row names one aspect in three ways."""

PRAISE = _words(
    """
    superb excellent great lovely perfect wonderful fantastic brilliant amazing splendid delightful impressive
    outstanding marvellous terrific pleasing flawless fine solid stellar
    """
)
BLAME = _words(
    """
    awful terrible dreadful poor horrible shoddy disappointing useless annoying lousy pathetic weak miserable wretched
    abysmal unbearable dismal faulty mediocre appalling
    """
)
PRODUCTS = _words(
    """
    phone laptop tablet camera radio printer scanner monitor keyboard headset router projector kettle toaster blender
    mixer juicer grill oven fridge freezer washer dryer vacuum heater fan lamp torch drill sander saw mower trimmer
    scooter bicycle helmet watch tracker pedometer thermometer scale shaver clipper hairdryer toothbrush massager
    doorbell alarm thermostat intercom drone gamepad console turntable amplifier soundbar guitar piano violin
    telescope microscope binoculars compass tent stove cooler backpack suitcase pram cot swing trampoline treadmill
    rower bench
    """
)
GIVERS = _words(
    """
    Anna Boris Carla David Elena Frank Greta Hugo Irene Jonas Karin Louis Maria Niels Olga Peter Rosa Simon Tanja
    Urban Vera Walter Yvonne Albert Berta Conrad Dora Emil Flora Gustav Helga Ivan Julia Klaus Laura Martin Nora Oscar
    Paula Robert Sofia Thomas Ulla Victor Wanda Xavier Zoe Adam Bella Cyril Diana Edgar Frida George Hanna Isaac Jana
    Kurt Lena Milan Nina Otto Petra Ralph Sonja Tobias Ursula Vincent Wilma Amelia Bruno Celia Denis Edith Felix
    Gloria Henry Ida Jacob Kathy Leo Mona Norbert Olive Paul Rita Stefan Tina Agnes Alfred Beatrice Bernard Camille
    Cedric Claudia Dominic Eleanor Erik Fabian Fiona Gerald Gisela Harriet Howard Ingrid Jasper Judith Leonard Lydia
    Magnus Miriam Nadia Oliver Pauline Philip Renata Rupert Sabine Sebastian Sylvia Theodor Veronica Winifred Wolfgang
    """
)
PURCHASES = (
    "Bought this",
    "Got the",
    "My new",
    "Two weeks with the",
    "Tried a friend's",
    "Sold my old",
    "Finally own this",
    "Rented the",
    "Unpacked my",
    "Second year with this",
)

# -------------------------------------------------------------------------------------------- articles and headlines

EVENTS = (
    ("opened", ("opens", "inaugurates", "unlocks")),
    ("closed", ("closes", "shutters", "axes")),
    ("bought", ("buys", "acquires", "grabs")),
    ("sold", ("sells", "divests", "dumps")),
    ("praised", ("praises", "lauds", "cheers")),
    ("criticised", ("criticises", "denounces", "slams")),
    ("repaired", ("repairs", "restores", "patches")),
    ("lost", ("loses", "forfeits", "fumbles")),
    ("planned", ("plans", "envisages", "plots")),
    ("moved", ("moves", "relocates", "shifts")),
    ("showed", ("shows", "unveils", "flaunts")),
    ("funded", ("funds", "endows", "bankrolls")),
    ("banned", ("bans", "prohibits", "nixes")),
    ("painted", ("paints", "adorns", "daubs")),
    ("found", ("finds", "locates", "spots")),
    ("broke", ("breaks", "shatters", "busts")),
)
"""What happened: the article's own verb, and the headline's in the three registers plain, lofty and casual."""

FAVOURITES = (
    "",
    "big news",
    "at last",
    "just in",
    "good grief",
    "hot take",
    "full story",
    "oh dear",
    "fair play",
)
"""The two words that a user puts into every headline; the first choice is to put none."""

OWNER_MODIFIERS = _words(
    """
    harbour city village county river valley island mountain forest coastal northern southern eastern western central
    royal national federal regional local youth student veteran volunteer railway airport hospital museum theatre
    college market football chess rowing sailing cycling hiking gardening fishing farming mining banking shipping
    textile steel timber dairy poultry
    """
)
OWNERS = _words(
    """
    council club board union company museum team party ministry agency committee guild league trust society bureau
    academy orchestra choir cooperative parliament senate brigade squad institute foundation federation alliance
    chamber office archive laboratory workshop studio gallery press broadcaster startup brewery mill
    """
)
THING_ADJECTIVES = _words(
    """
    wooden golden silver stone marble copper rusty ancient modern tiny giant narrow broad crooked round square yellow
    purple scarlet crimson turquoise striped spotted floating hidden secret famous forgotten haunted humble grand
    elegant gloomy sunny windy dusty muddy frozen burning leaky creaky shiny cheap costly rare spare temporary
    permanent public mobile
    """
)
THINGS = _words(
    """
    bridge tower tunnel ferry canal fountain statue clock bell garden park playground stadium pool rink track arena
    library school chapel temple palace castle lighthouse pier dock wharf warehouse factory barn silo windmill dam
    reservoir well pump turbine tram bus locomotive wagon carriage yacht canoe raft glider balloon airship satellite
    antenna beacon monument obelisk arch gate fence wall staircase balcony terrace pavilion kiosk cafe hostel motel
    cinema aquarium zoo aviary orchard vineyard greenhouse meadow pond trail plaza avenue roundabout mural mosaic
    tapestry portrait sculpture organ harp crown
    """
)
PLACES = _words(
    """
    Aberdeen Adelaide Antwerp Athens Auckland Bamako Bangkok Basel Beirut Belfast Bergen Berlin Bilbao Bogota Bologna
    Bordeaux Boston Bremen Brisbane Bristol Brno Bruges Brussels Bucharest Budapest Cairo Calais Calgary Cardiff
    Chicago Cologne Copenhagen Cordoba Cork Dakar Dallas Danzig Darwin Denver Dijon Dover Dresden Dublin Durban
    Edinburgh Essen Exeter Faro Florence Galway Geneva Genoa Ghent Glasgow Granada Graz Grenoble Haarlem Halifax
    Hamburg Hanoi Hanover Havana Helsinki Houston Innsbruck Istanbul Jakarta Kampala Karachi Kiel Kingston Krakow
    Kyoto Lagos Leeds Leiden Leipzig Lille Lima Limerick Linz Lisbon Liverpool London Luanda Lucerne Lyon Madrid
    Malaga Malmo Manila Marseille Melbourne Memphis Miami Milan Montreal Moscow Munich Nairobi Nantes Naples Newport
    Nice Norwich Odessa Oslo Ottawa Oxford Padua Palermo Paris Perth Phoenix Pisa Plymouth Porto Prague Quebec
    Ravenna Rennes Riga Rome Rouen Salzburg Santiago Seattle Seoul Seville Siena Sofia Split Stockholm Sydney Tallinn
    Tampere Tirana Tokyo Toledo Toronto Toulouse Trieste Tunis Turin Utrecht Valencia Venice Verona Vienna Vilnius
    Warsaw Winnipeg York Zagreb Zurich
    """
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SOURCES = _words(
    """
    officials neighbours residents reporters police engineers historians organisers visitors sponsors critics insiders
    locals tourists shopkeepers workers parents pupils members experts bystanders passengers commuters architects
    campaigners analysts lawyers investors delegates spokesmen
    """
)
REASONS = _words(
    """
    drought flood storm heatwave snowfall election festival carnival marathon auction anniversary jubilee inspection
    budget deficit donation lottery lawsuit petition referendum boycott merger scandal rumour survey census
    audit rehearsal exhibition conference
    """
)

# ------------------------------------------------------------------------------------------------------ by the way

ANIMALS = _words(
    """
    dog cat horse pony donkey mule goat sheep lamb cow calf bull pig piglet hen rooster duck goose swan turkey pigeon
    parrot canary finch robin sparrow swallow raven crow magpie owl hawk falcon eagle heron stork crane pelican
    penguin seal otter beaver badger fox wolf bear hare rabbit hedgehog squirrel mouse rat mole bat weasel ferret lynx
    tiger lion leopard panther zebra giraffe camel llama elephant rhino hippo monkey gorilla koala kangaroo wombat
    tortoise turtle lizard snake frog toad newt salmon trout carp pike eel crab lobster snail beetle cricket moth
    butterfly spider
    """
)
FOODS = _words(
    """
    bread butter cheese yoghurt cream porridge pancakes waffles noodles rice lentils beans peas carrots potatoes
    turnips onions garlic leeks cabbage spinach lettuce cucumbers tomatoes peppers pumpkins mushrooms olives apples
    pears plums cherries apricots peaches grapes melons lemons oranges figs dates walnuts almonds chestnuts honey jam
    marmalade chocolate biscuits cakes tarts pies puddings custard soup stew curry sausages bacon ham omelettes
    sandwiches pickles mustard vinegar pepper cinnamon ginger vanilla saffron basil parsley thyme mint tea coffee
    cocoa lemonade cider
    """
)
PLANTS = _words(
    """
    oak beech birch alder ash elm maple poplar willow lime chestnut walnut hazel holly ivy yew juniper pine spruce fir
    larch cedar cypress laurel myrtle magnolia lilac jasmine honeysuckle rose tulip lily iris daffodil crocus snowdrop
    primrose violet pansy poppy daisy dahlia aster marigold sunflower lavender rosemary sage heather gorse broom fern
    bracken moss reed rush clover nettle thistle dandelion
    """
)
HOBBIES = _words(
    """
    archery astronomy baking birdwatching boating bowling camping canoeing caving climbing crochet darts diving
    embroidery fencing foraging genealogy golf hockey jogging judo karate kayaking knitting macrame origami parkour
    photography pottery puzzles quilting sketching skating skiing snorkelling squash surfing tennis travel woodwork
    yoga
    """
)
SHOPS = _words(
    """
    arcade bazaar boutique catalogue discounter emporium importer mall outlet pawnshop supermarket wholesaler
    """
)
SURNAMES = _words(
    """
    Abbott Adler Ahlgren Alonso Andersen Arnold Ashworth Bailey Barlow Becker Bellini Bennett Berger Blake Bradley
    Brandt Brennan Burton Calloway Carlsen Castillo Chandler Clarke Conti Corbett Costa Crawford Dalton Danieli Dawson
    Delgado Dietrich Donovan Drummond Duval Eastwood Eklund Elliott Esposito Evans Farrell Ferrari Fiedler Fleming
    Fontaine Forster Fraser Gallagher Garcia Gibson Goodwin Graham Greco Griffin Gruber Haas Hansen Harding Hartmann
    Hayes Hendricks Herrera Hoffmann Holloway Hughes Ibsen Iversen Jansen Jennings Johansson Keller Kennedy Kovacs
    Kramer Laine Lambert Larsen Lawson Lehmann Lindgren Lombardi Lopez Lorenz MacLeod Madsen Mancini Marsh Mayer
    Mercier Meyer Molina Moreau Morgan Mueller Murphy Navarro Nielsen Nilsson Nolan Novak Oakley Olsen Ortega Palmer
    Parker Pavlov Pearson Pereira Petersen Pollard Popov Preston Quinn Ramirez Rasmussen Reuter Ricci Richter Robson
    Romero Rossi Rousseau Russo Sanders Santos Schmidt Schneider Sinclair Sorensen Spencer Stanton Stewart Sullivan
    Svensson Sweeney Tanner Tomasi Tucker Turner Ulrich Valdez Vargas Vogel Wagner Walsh Weber Whitaker Winkler Wolff
    Wright Zeller Ziegler Zimmermann Albrecht Amato Baxter Bianchi Blackwood Bower Carver Cervantes Connolly Cooke
    Dahl Davenport Dubois Ellison Engel Ferreira Fischer Gardiner Gauthier Hawkins Holm Jarvis Kirchner Koch Lindqvist
    Marchetti Mortensen Norris Osborne Pascal Piper Rinaldi Rosenberg Salazar Santoro Sheridan Stein Thornton Vasquez
    Vaughan Whitman
    """
)
BELONGINGS = _words(
    """
    hat cap bonnet scarf shawl cloak coat jacket waistcoat cardigan sweater shirt blouse apron skirt gown kilt
    trousers belt buckle glove mitten boot sandal slipper sock ribbon button brooch necklace bracelet earring locket
    ring wallet purse satchel basket bucket barrel crate trunk chest drawer cupboard shelf mirror comb brush soap
    towel blanket pillow quilt mattress candle lantern matchbox kindling hammer chisel spanner anvil bellows trowel
    shovel spade rake hoe sickle scythe axe hatchet rope anchor paddle oar rudder sail mast hammock map atlas globe
    ledger notebook pencil inkwell quill stamp postcard envelope parcel newspaper almanac cookbook hymnbook banjo
    mandolin lute flute oboe clarinet bassoon trumpet trombone tuba bugle bagpipe accordion harmonica tambourine
    cymbal xylophone chessboard domino marble kite yo-yo teddy puppet doll sledge skate racket bat wicket
    trophy medal flag banner badge whistle umbrella parasol cane crutch teapot kettle saucer tankard goblet
    jug flask thimble needle spindle loom
    """
)
COLOURS = _words(
    """
    black white grey red blue green orange pink brown beige ivory cream teal navy azure cobalt indigo mauve maroon
    burgundy ruby coral salmon peach amber ochre khaki olive emerald jade charcoal bronze pearl
    """
)
VEHICLES = _words(
    """
    train coach taxi van lorry truck tractor trolleybus minibus limousine motorbike moped barge tugboat trawler
    steamer hovercraft catamaran kayak gondola rickshaw sleigh buggy cart caravan zeppelin seaplane biplane tandem
    unicycle
    """
)
ROOMS = _words(
    """
    kitchen parlour attic cellar pantry hallway bathroom bedroom nursery study lounge garage shed porch veranda
    conservatory dormitory canteen lobby corridor classroom boardroom courtroom foyer
    """
)

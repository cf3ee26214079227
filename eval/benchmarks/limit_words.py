"""Names of people, and things that people like: what LIMIT-style corpora are made of (`persona.eval.limit`)."""

from __future__ import annotations


def _listed(text: str) -> tuple[str, ...]:
    """The different entries of a comma list, in order; one may run over the end of a line."""
    return tuple(dict.fromkeys(" ".join(entry.split()) for entry in text.split(",")))


FIRST_NAMES = _listed(
    """
Ada, Adil, Agnes, Aiko, Alba, Alma, Amal, Amina, Anders, Anouk, Anton, Arjun, Astrid, Aya, Azra, Beatriz, Bela, Benno,
Bo, Bruno, Camila, Carmen, Cato, Celia, Chidi, Clara, Dagny, Dalia, Damir, Darya, Dina, Dunja, Edda, Efe, Elif, Elias,
Ella, Emeka, Emil, Enzo, Esra, Eva, Farah, Farid, Femi, Finn, Flora, Freya, Gael, Gita, Greta, Gustav, Hana, Hari,
Hedda, Hugo, Ida, Idris, Ilse, Imani, Ines, Ingrid, Ioana, Iris, Ivan, Jana, Jari, Jasper, Jin, Jonas, Juno, Kaito,
Kamal, Karin, Katya, Kenji, Kofi, Laila, Lars, Leila, Lena, Leon, Lin, Livia, Lotte, Luca, Lucia, Luz, Mads, Maja,
Malik, Mara, Marek, Marta, Matteo, Mei, Mila, Milan, Mina, Mira, Nadia, Naoko, Nils, Nina, Noor, Nora, Olga, Omar,
Oona, Oskar, Otto, Pavel, Petra, Pia, Priya, Quim, Rafael, Rana, Ravi, Reza, Rita, Rosa, Runa, Sami, Sana, Saskia,
Selma, Sofie, Stefan, Svea, Tahir, Tamar, Tariq, Teo, Thea, Tilda, Timo, Tove, Ulla, Uma, Uri, Vera, Viggo, Wanda,
Wim, Xenia, Yara, Yusuf, Yuki, Zara, Zeno, Zofia
"""
)
"""Given names."""

LAST_NAMES = _listed(
    """
Abara, Adler, Aguilar, Ahlgren, Aoki, Arden, Bakker, Balogun, Banerjee, Barros, Beck, Benitez, Berg, Bianchi, Blom,
Boateng, Brandt, Cabral, Calder, Carvalho, Castellan, Chowdhury, Conti, Cruz, Dahl, Dekker, Delgado, Demir, Diallo,
Dogan, Dubois, Duarte, Eklund, Engel, Eriksen, Falk, Farkas, Ferreira, Fischer, Flores, Fontaine, Fraser, Gallo,
Garnier, Ghosh, Grau, Grimaldi, Haas, Hakim, Halloran, Hansen, Haruki, Hayek, Heller, Herrera, Holm, Horvat, Ibarra,
Ikeda, Iqbal, Ivarsson, Jansen, Jensen, Juhasz, Kalman, Kaplan, Karimi, Keller, Kimura, Kiraly, Klein, Kovac, Krause,
Kruger, Kumar, Lachance, Lange, Larsen, Laurent, Lehto, Lindqvist, Lopez, Lund, Madsen, Marino, Markov, Mbeki, Medina,
Meyer, Moreau, Mori, Moser, Nair, Nakata, Navarro, Nemec, Niemi, Nilsen, Novak, Nyström, Oberoi, Ocampo, Okafor,
Olsen, Ortega, Osei, Palmer, Papadakis, Patel, Pereira, Petrov, Pham, Popescu, Quiroga, Rahman, Ramires, Rasmussen,
Reyes, Ricci, Rinaldi, Rossi, Roux, Sable, Saito, Salonen, Santos, Schmitt, Sedlak, Sharma, Silva, Solberg, Soto,
Stein, Suarez, Szabo, Takeda, Tanaka, Thorne, Toth, Tran, Turunen, Ueda, Vance, Varga, Vasquez, Vidal, Virtanen,
Vogel, Walker, Weber, Winther, Yamada, Yilmaz, Zamora, Zeman, Ziegler
"""
)
"""Family names."""

THINGS = _listed(
    """
aardvarks, abalone, abseiling, accordions, acorns, acrobatics, acrostics, adobe houses, aerobics, agates, aikido, air
hockey, airships, alabaster, albatrosses, alchemy, alfalfa, algebra, alligators, allotments, almonds, alpacas,
alphorns, amaranth, amber, ambient music, amethysts, ammonites, anagrams, anchovies, anemones, angelfish, aniseed,
anteaters, antelopes, antique maps, antlers, anvils, aperitifs, apiaries, appaloosas, apple cider, apricots,
aquaplaning, aquariums, aquatints, archery, archipelagos, arias, armadillos, aromatherapy, art deco, artichokes,
arugula, asparagus, aspens, asteroids, astrolabes, astronomy, atlases, aubergines, auctions, auroras, autoharps,
avalanches, avocados, axolotls, azaleas, azulejos, baboons, backgammon, badgers, badminton, bagels, bagpipes, baklava,
balaclavas, balalaikas, ballads, ballet, ballooning, balsa wood, bamboo, bananas, bandoneons, banjos, banyan trees,
baobabs, barbecue, barn owls, barnacles, barometers, baroque music, barracudas, basalt, baseball, basil, basketball,
bassoons, bathtubs, batik, bats, bay leaves, beach volleyball, beachcombing, beads, beagles, beavers, beekeeping,
beetles, beetroot, begonias, belfries, bell ringing, beluga whales, benches, bergamot, beryl, bicycles, billiards,
binoculars, biographies, biplanes, birch sap, bird watching, biscotti, bison, black holes, blacksmithing,
blackberries, blini, bloodhounds, blue cheese, bluebells, blueberries, bluegrass, boar hunting, board games,
boathouses, bobsleigh, bocce, bog bodies, boleros, bongos, bonfires, bonsai, bookbinding, bookshops, boomerangs,
borscht, botany, bouillabaisse, boules, bouquets, bowling, bowties, box kites, boxing, bracelets, braille, bramble
jelly, brass bands, breakdancing, breakwaters, brewing, brioche, broccoli, brocade, brutalism, bubble tea, buckwheat,
budgerigars, buffaloes, bullfinches, bumblebees, bungee jumping, burritos, buskers, butterflies, buttermilk, buttons,
cabaret, cable cars, cacti, calligraphy, calypso, camels, cameos, campanulas, camping, canals, candles, canoes,
canyons, capoeira, capybaras, caramel, caravans, cardamom, cardigans, caribou, caricatures, carillons, carnations,
carnivals, carob, carousels, carpentry, carrier pigeons, cartography, cartoons, cashews, cassettes, cassowaries,
castanets, castles, catamarans, cathedrals, cauliflower, caves, caviar, cedars, cellos, cembalos, ceramics, ceviche,
chalk cliffs, chameleons, chamomile, champagne, chandeliers, chanterelles, charades, charcoal, cheese fondue,
cheesecake, cheetahs, chemistry, cherry blossom, chess, chestnuts, chickpeas, chicory, chihuahuas, chimneys,
chinchillas, chipmunks, chocolate, chopsticks, choral singing, chowder, chrysanthemums, chutney, cicadas, cinema,
cinnamon, circuses, citadels, clairvoyants, clarinets, claymation, clay tablets, clementines, climbing, cloisters,
clouds, clover, clownfish, clowns, coal tits, cobblestones, cobras, cocker spaniels, cockatoos, coconuts,
codebreaking, coelacanths, coffee, coins, collages, comedies, comets, comic books, compasses, composting, concertinas,
conkers, contact juggling, coral reefs, cordials, coriander, cormorants, cornets, cornflowers, corsets, couscous,
cowbells, coyotes, crab apples, crabs, cranberries, cranes, crayfish, cribbage, cricket, crochet, crocodiles,
crocuses, croissants, croquet, crossbows, crosswords, crumpets, crystals, cubism, cuckoo clocks, cucumbers, cumin,
curling, currants, curry, cutlery, cyclamens, cycling, cymbals, cypresses, daffodils, dahlias, daisies, dalmatians,
damask, dances, dandelions, darts, dates, deckchairs, deer, delphiniums, deserts, detective novels, diamonds, diaries,
dice, dictionaries, didgeridoos, dill, dinghies, dingoes, dinosaurs, dioramas, discus throwing, diving, dodos,
dogsleds, dollhouses, dolmens, dolphins, dominoes, donkeys, dormice, doughnuts, dovecotes, dragonflies, dragon boats,
drawbridges, dressage, driftwood, drones, drums, drystone walls, duets, dulcimers, dumplings, dunes, dungeons, eagles,
earrings, earthworms, easels, echidnas, eclairs, eclipses, edelweiss, eels, egrets, eiderdowns, elderflower, electric
cars, elephants, elk, elm trees, embroidery, emeralds, empanadas, emus, enamel, enchiladas, endive, engravings, epics,
ermine, escape rooms, espresso, essays, estuaries, etchings, etymology, eucalyptus, evensong, excavators, fables,
fairgrounds, falafel, falconry, fencing, fennel, fermentation, fern gardens, ferrets, ferries, fiddles, field hockey,
figs, figure skating, filigree, film noir, finches, fireflies, fireplaces, fireworks, fishing, fjords, flags,
flamenco, flamingos, flea markets, flint tools, floorball, flower arranging, flugelhorns, flutes, fly agarics,
focaccia, fog, folk songs, football, footbridges, forges, forget-me-nots, fossils, fountains, foxes, foxgloves,
frescoes, frisbee, frogs, fuchsias, fudge, fugues, funiculars, funk, futsal, galaxies, galleons, gannets, gardenias,
gargoyles, garlic, garnets, gazelles, gazpacho, geckos, geese, genealogy, gentians, geocaching, geodes, geometry,
geraniums, gerbils, geysers, gherkins, giant squid, gibbons, gilding, ginger, gingerbread, giraffes, glaciers,
gladioli, glassblowing, gliders, globes, glockenspiels, gnocchi, gnus, go-karts, goat cheese, goldfish, golf,
gondolas, gongs, gooseberries, gorillas, gospel, goulash, gramophones, granite, grapefruit, grapes, grasshoppers,
greenhouses, greyhounds, griffins, grottoes, grouse, guacamole, guavas, guinea pigs, guitars, gulls, gumbo,
gymnastics, gyroscopes, haggis, haiku, halloumi, hammered dulcimers, hammocks, hamsters, handball, handbells, hang
gliding, hares, harmonicas, harmoniums, harps, harpsichords, hats, hawthorn, hazelnuts, heather, hedgehogs, hedge
mazes, heirlooms, helicopters, helium, hellebores, henna, heraldry, herbariums, hermit crabs, herons, herrings,
hibiscus, hieroglyphs, hiking, hippos, hoarfrost, hollyhocks, holograms, honey, honeysuckle, hopscotch, horned owls,
hornbeams, horoscopes, horseradish, horses, hot air balloons, hot sauce, hot springs, hourglasses, houseboats, hula
hoops, hummingbirds, hummus, hurdling, huskies, hyacinths, hydrangeas, hyenas, hymns, ibexes, ibises, ice cream, ice
hockey, icebergs, icicles, icons, igloos, iguanas, impalas, improvisation, indigo, ink drawings, insects, iridology,
irises, islands, isopods, ivory, ivy, jacarandas, jackals, jackdaws, jade, jaguars, jam sessions, jasmine, jasper,
javelins, jays, jazz, jellyfish, jerky, jewellery, jigsaws, jokes, jousting, judo, jugglers, jukeboxes, juniper,
kabuki, kaleidoscopes, kale, kangaroos, karaoke, karate, kayaks, kazoos, kebabs, kefir, kelp, kendo, kestrels,
kettles, kimchi, kimonos, kingfishers, kippers, kites, kiwis, knitting, knots, koalas, kohlrabi, koi, komodo dragons,
kookaburras, korfball, kumquats, labyrinths, lace, lacquer, lacrosse, ladybirds, lagoons, lakes, lamas, lampshades,
lanterns, lapwings, larches, larks, lasagne, laurel, lava lamps, lavender, leather, leeks, legends, lemmings,
lemonade, lemurs, lentils, leopards, letterpress, lettuce, libraries, lichens, licorice, lighthouses, lightning,
lilacs, lilies, limericks, limestone, limpets, linen, lino prints, lions, lizards, llamas, lobsters, locomotives, log
cabins, looms, lotus flowers, love letters, lullabies, lupins, lutes, lychees, lynxes, lyres, macadamias, macarons,
macaws, mackerel, macrame, magic tricks, magnets, magnolias, magpies, mahjong, mallards, mammoths, manatees, mandalas,
mandarins, mandolins, mangoes, mangroves, mantises, manuscripts, maple syrup, maracas, marathons, marble, marbles,
marigolds, marimbas, marionettes, marjoram, marmalade, marmots, marquetry, marshmallows, martens, masks, mazurkas,
meadows, medallions, meerkats, melodicas, melons, memoirs, menhirs, meringue, mermaids, meteorites, metronomes,
microscopes, milkshakes, millet, mime, minarets, mince pies, mindfulness, minestrone, miniature trains, mint,
mistletoe, moats, model ships, moles, monasteries, mongooses, monoliths, monsoons, moonstones, moose, moray eels,
morels, mosaics, mosses, moths, motorbikes, motets, moussaka, mozzarella, mulberries, mules, mummies, murals,
mushrooms, musicals, musk oxen, mussels, mustard, mythology, naan, narcissi, narwhals, nasturtiums, nautilus shells,
nebulae, nectarines, needlepoint, neon signs, nettles, newts, nightingales, ninepins, noodles, nougat, novellas,
nutmeg, nuthatches, oak trees, oases, oatmeal, obelisks, oboes, observatories, obsidian, ocarinas, ocelots, octopuses,
okapis, okra, old typewriters, oleander, olives, omelettes, onyx, opals, opera, orang-utans, oranges, orchards,
orchids, oregano, organs, orienteering, origami, orioles, ospreys, ostriches, otters, overtures, oxbow lakes, oysters,
paddleboards, paddle steamers, paella, pagodas, palaces, palindromes, palm trees, pancakes, pandas, pangolins,
panpipes, pansies, panthers, papayas, papercuts, paprika, papyrus, parables, parachutes, parades, parakeets,
parchment, parkour, parmesan, parquet, parrots, parsley, parsnips, partridges, passion fruit, pastels, pastrami,
patchwork, pavilions, pavlova, peaches, peacocks, peanuts, pearls, pears, pebbles, pecans, pelicans, pendulums,
penguins, pentathlons, peonies, pepper mills, peregrines, perfume, periwinkles, persimmons, petanque, petroglyphs,
petunias, pewter, pheasants, philately, phlox, photography, pianos, piccolos, pickles, picnics, pierogi, pigs,
pilates, pilgrimages, pinatas, pinball, pineapples, pinecones, pistachios, pizza, planetariums, planispheres,
plankton, plasticine, platypuses, plovers, plums, poetry, poker, polar bears, polenta, polkas, polo, pomegranates,
pomelos, ponies, pontoons, poodles, popcorn, poppies, porcelain, porcupines, porridge, portraits, postcards,
potholing, pottery, prairie dogs, pralines, prawns, preludes, pretzels, primroses, printmaking, prisms, proverbs,
psalms, pubs, puffins, pugs, pulleys, pulsars, pumas, pumpkins, puns, puppetry, puzzles, pyramids, pythons, quail
eggs, quarries, quartz, quasars, quaver crisps, quesadillas, quiches, quill pens, quilts, quince, quinoa, quizzes,
quokkas, quoits, rabbits, raccoons, radios, radishes, raffia, rafting, ragtime, rainbows, raisins, rally driving,
rambutans, ramen, rapids, raspberries, ravens, ravioli, razorbills, red squirrels, reggae, reindeer, relay races,
requiems, rhinos, rhododendrons, rhubarb, rice terraces, riddles, ring-tailed coatis, risotto, rivers, road trips,
robins, robots, rock pools, rockets, rodeos, roller skates, romanesque churches, rondos, rooks, rosemary, roses,
roulette, rounders, rowan berries, rowing, rubies, rugby, rumba, runes, rye bread, sabres, sackbuts, saddles, saffron,
sagas, sailing, salads, salamanders, salmon, salsa, saltmarshes, sambas, samosas, samovars, sand dollars, sandals,
sandcastles, sapphires, sardines, saris, satire, sauerkraut, saunas, saxophones, scallops, scarecrows, scarves,
schnitzel, schooners, science fiction, scones, scooters, scorpions, scrabble, screen printing, scuba gear, sculptures,
scythes, sea urchins, seahorses, seals, seances, seashells, seaweed, sequoias, serenades, sestets, sewing machines,
shadow plays, shale, shallots, shanties, sharks, sheep, sherbet, shipwrecks, shire horses, shogi, short stories,
shortbread, shot put, shrews, silk, silverware, sitars, skateboards, skeleton keys, skiing, skipping ropes, skittles,
skunks, skydiving, slate, sledges, sloths, slugs, smoothies, snails, snapdragons, snooker, snorkelling, snow globes,
snowdrops, snowshoes, soap carving, soapstone, sonatas, sonnets, sorbet, sorrel, souffles, soy sauce, space probes,
spaghetti, sparrows, spiders, spinach, spinning wheels, spoonbills, spoons, springboks, sprinting, spruces, squash,
squid, stained glass, stalactites, stamps, starfish, starlings, static caravans, steam engines, steel drums, stencils,
stick insects, stilts, stingrays, stoats, storks, storytelling, strawberries, string quartets, strudel, sturgeons,
submarines, sudoku, suitcases, sumo, sundials, sunflowers, sunrises, surfing, sushi, suspension bridges, swallows,
swans, swimming, swords, sycamores, symphonies, tabby cats, tabla, table tennis, tadpoles, taekwondo, tai chi,
tamarinds, tandems, tango, tapas, tapestries, tapirs, tarot cards, tarragon, tarsiers, tartan, tattoos, taxidermy, tea
ceremonies, teak, telescopes, temples, tempura, tennis, tents, termites, terracotta, terrapins, terrariums, theatre,
thimbles, thistles, thunderstorms, thyme, tigers, tightropes, timpani, tiramisu, toads, toboggans, tofu, tomatoes,
tomb raiding, topaz, topiary, tornadoes, tortoises, toucans, tourmaline, trains, trams, trampolines, trapeze,
travelogues, treehouses, trellises, triathlons, tricycles, trifle, trilobites, trombones, trout, truffles, trumpets,
tubas, tug of war, tulips, tumbleweed, tuna, tundra, tunnels, turbans, turmeric, turnips, turquoise, turtles, tweed,
twilight, ukuleles, umbrellas, unicycles, urban sketching, vampires, vanilla, vaults, velodromes, velvet, veneers,
verbena, viaducts, vibraphones, villanelles, vineyards, vintage radios, vinyl records, violas, violets, violins,
volcanoes, volleyball, vultures, waffles, wagtails, walnuts, walruses, waltzes, warthogs, wasabi, water lilies, water
polo, watercolours, waterfalls, watermelons, watermills, waterwheels, wax seals, weasels, weathervanes, weaving,
weightlifting, wells, whales, whirlpools, whisky, whistles, whittling, wicker baskets, wigwams, wild garlic, willows,
wind chimes, windmills, windsurfing, wisteria, witchcraft, wolverines, wolves, wombats, wood carving, woodpeckers,
woodwork, wool, world records, wrens, wrestling, xylophones, yachts, yaks, yarrow, yeast, yews, yodelling, yoga,
yoghurt, yo-yos, yurts, zebras, zeppelins, ziggurats, zinnias, zithers, zoetropes, zombies, zucchini, zydeco
"""
)
"""Things that people like."""
